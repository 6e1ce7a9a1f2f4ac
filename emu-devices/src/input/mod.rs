//! Keyboard, mouse and their controller.

pub mod i8042;
pub mod ps2_keyboard;
pub mod ps2_mouse;
pub mod scancode;
