//! Schedules of a fake model.
