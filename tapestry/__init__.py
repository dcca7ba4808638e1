"""Where things are: GUIDs today; prefix routing, object location and churn come with the overlay."""
