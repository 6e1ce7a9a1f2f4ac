//! Small firmware for guests that need INT services.
