"""What every test shares: the settings of hypothesis."""

import hypothesis

# A loaded machine is no reason for a property to fail, so no example has a deadline.
hypothesis.settings.register_profile("pond", deadline=None)
hypothesis.settings.load_profile("pond")
