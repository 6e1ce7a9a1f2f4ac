//! Keys with a meaning of their own at the attached terminal.

/// Ctrl-A: begins a command to env86.
pub const CTRL_A: u8 = 0x01;

/// Ctrl-D: end of input; ends the session if the user wants it to.
pub const CTRL_D: u8 = 0x04;

/// A command to env86, given as Ctrl-A and a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// End the session.
    Quit,
    /// List the commands.
    Help,
    /// Save the machine's state.
    Save,
}

/// Commands by key.
const COMMANDS: [(u8, Command, &str); 3] = [
    (b'x', Command::Quit, "end the virtual machine"),
    (b's', Command::Save, "save the machine's state into the image"),
    (b'h', Command::Help, "this list"),
];

/// The command that `key` stands for after Ctrl-A. Upper case does as well.
pub fn command(key: u8) -> Option<Command> {
    COMMANDS.iter().find(|(k, ..)| *k == key.to_ascii_lowercase()).map(|(_, command, _)| *command)
}

/// The commands, one a line.
pub fn help() -> String {
    let mut text = String::from("env86 commands:\n");
    for (key, _, what) in COMMANDS {
        text.push_str(&format!("  Ctrl-a {}       {what}\n", char::from(key)));
    }
    text.push_str("  Ctrl-a Ctrl-a  send Ctrl-a to the guest\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_its_key_and_is_in_the_help() {
        for (key, expected, what) in COMMANDS {
            assert_eq!(command(key), Some(expected));
            assert_eq!(command(key.to_ascii_uppercase()), Some(expected));
            assert!(help().contains(what));
        }
        assert_eq!(command(b'q'), None);
    }
}
