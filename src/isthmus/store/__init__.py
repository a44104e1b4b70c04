"""The store: our lakehouse of profiles and events. The only place that knows its SQL."""
