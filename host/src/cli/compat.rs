//! The old tool's flag syntax.
//!
//! That tool was written in Go and took flags as Go does: `-name` is `--name`, a value follows
//! after `=` or as the next argument whatever it looks like, switches take `=true` and `=false`,
//! the last of several equal flags counts, and the first argument that is no flag ends the flags.
//! [`normalise`] rewrites that into what `clap` takes. After the first positional argument the new
//! syntax (`--name`) is understood too.

use std::collections::HashMap;
use std::ffi::OsString;

use clap::{ArgAction, Command};

/// Why the arguments cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompatError {
    /// There is no such flag.
    #[error("Unknown flag: {found}{}", similar.as_ref().map(|flag| format!("; is it {flag}?")).unwrap_or_default())]
    UnknownFlag {
        /// As written.
        found: String,
        /// The flag that is most like it.
        similar: Option<String>,
    },
    /// A switch got something else than true or false.
    #[error("Invalid value {value:?} for flag {flag}: expected true or false")]
    NotBoolean {
        /// As written.
        flag: String,
        /// As written.
        value: String,
    },
    /// A flag without its value.
    #[error("Flag needs a value: {0}")]
    MissingValue(String),
    /// A flag with one dash after the first positional argument.
    #[error("Flag after the image: {found}; write {instead}")]
    AfterPositional {
        /// As written.
        found: String,
        /// How it is understood there.
        instead: String,
    },
}

/// Rewrites arguments (the program's name first) in the old syntax for `root`.
///
/// # Errors
/// See [`CompatError`].
pub fn normalise(arguments: Vec<OsString>, root: &Command) -> Result<Vec<OsString>, CompatError> {
    let mut input = arguments.into_iter();
    let mut output: Vec<OsString> = input.by_ref().take(2).collect();
    let command = output.get(1).and_then(|name| root.find_subcommand(name));
    let Some(mut command) = command else {
        output.extend(input);
        return Ok(output);
    };
    if command.has_subcommands() {
        let name = input.next();
        let inner = name.as_ref().and_then(|name| command.find_subcommand(name));
        output.extend(name);
        let Some(inner) = inner else {
            output.extend(input);
            return Ok(output);
        };
        command = inner;
    }
    let flags = Flags::of(command);
    // What follows the first positional argument belongs to somebody else in `run`.
    let passes_rest = command.get_positionals().any(|arg| arg.is_trailing_var_arg_set());
    let mut positional = false;

    while let Some(argument) = input.next() {
        let Some(text) = argument.to_str().filter(|text| text.len() > 1 && text.starts_with('-')) else {
            positional = true;
            output.push(argument);
            if passes_rest {
                break;
            }
            continue;
        };
        if text == "--" {
            output.push(argument);
            break;
        }
        let bare = text.strip_prefix("--").unwrap_or(&text[1..]);
        let two_dashes = text.starts_with("--");
        let (name, value) = match bare.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (bare, None),
        };
        let Some(flag) = flags.find(name) else {
            // `-p8080:80`, as newer tools take it.
            let attached = !two_dashes
                && bare.chars().next().is_some_and(|short| {
                    flags.find(short.encode_utf8(&mut [0; 4])).is_some_and(|f| f.takes_value)
                });
            if attached || (two_dashes && positional) {
                output.push(argument);
                continue;
            }
            // `-it`, as newer tools take it.
            let switches = bare.chars().map(|short| flags.find(short.encode_utf8(&mut [0; 4])));
            let switches: Option<Vec<_>> =
                switches.map(|flag| flag.filter(|flag| !flag.takes_value)).collect();
            if let Some(switches) = switches.filter(|_| !two_dashes && value.is_none() && bare.len() > 1) {
                output.extend(switches.iter().map(|flag| OsString::from(format!("--{}", flag.long))));
                continue;
            }
            return Err(CompatError::UnknownFlag { found: text.to_owned(), similar: flags.like(name) });
        };
        if positional && !two_dashes && name.chars().count() > 1 {
            let instead = format!("--{}", flag.long);
            return Err(CompatError::AfterPositional { found: text.to_owned(), instead });
        }
        // The short form asks for the short help.
        let long = if name == "h" { "-h".to_owned() } else { format!("--{}", flag.long) };
        if flag.takes_value {
            let value = match value {
                Some(value) => OsString::from(value),
                None => input.next().ok_or_else(|| CompatError::MissingValue(text.to_owned()))?,
            };
            let mut joined = OsString::from(format!("{long}="));
            joined.push(value);
            output.push(joined);
        } else {
            output.retain(|earlier| *earlier != *long);
            let on = value.map(|value| {
                boolean(value)
                    .ok_or_else(|| CompatError::NotBoolean { flag: long.clone(), value: value.to_owned() })
            });
            if on.transpose()?.unwrap_or(true) {
                output.push(long.into());
            }
        }
    }
    output.extend(input);
    Ok(output)
}

/// Truth values as Go reads them.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

struct Flag {
    long: String,
    takes_value: bool,
}

/// The flags of a command by every name they have.
struct Flags {
    names: HashMap<String, usize>,
    flags: Vec<Flag>,
}

impl Flags {
    fn of(command: &Command) -> Self {
        let mut this = Self { names: HashMap::new(), flags: Vec::new() };
        for arg in command.get_arguments() {
            let Some(long) = arg.get_long() else { continue };
            let takes_value = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
            let longs = arg.get_long_and_visible_aliases().unwrap_or_default();
            let hidden = arg.get_all_aliases().unwrap_or_default();
            let shorts = arg.get_short_and_visible_aliases().unwrap_or_default();
            let index = this.flags.len();
            this.flags.push(Flag { long: long.to_owned(), takes_value });
            this.names.extend(longs.into_iter().chain(hidden).map(|name| (name.to_owned(), index)));
            this.names.extend(shorts.into_iter().map(|short| (short.to_string(), index)));
        }
        // clap adds this one when it parses.
        this.names.extend(["h", "help"].map(|name| (name.to_owned(), this.flags.len())));
        this.flags.push(Flag { long: "help".to_owned(), takes_value: false });
        this
    }

    /// The flag somebody meant who wrote `name`, if one is like it.
    fn like(&self, name: &str) -> Option<String> {
        /// Less is chance.
        const ENOUGH: f64 = 0.8;
        let likeness = |flag: &Flag| (strsim::jaro_winkler(name, &flag.long), format!("--{}", flag.long));
        let best = self.flags.iter().map(likeness).max_by(|(a, _), (b, _)| a.total_cmp(b));
        best.filter(|(likeness, _)| *likeness >= ENOUGH).map(|(_, flag)| flag)
    }

    fn find(&self, name: &str) -> Option<&Flag> {
        self.names.get(name).and_then(|index| self.flags.get(*index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Arg;

    fn root() -> Command {
        let switch = |name| Arg::new(name).long(name).action(ArgAction::SetTrue);
        let boot = Command::new("boot")
            .arg(switch("ttyS0"))
            .arg(switch("cold"))
            .arg(switch("net").short('n'))
            .arg(Arg::new("publish").long("publish").short('p'))
            .arg(Arg::new("exit-on").long("exit-on"))
            .arg(Arg::new("image"));
        let run = Command::new("run")
            .arg(switch("net").short('n'))
            .arg(switch("tty").short('t'))
            .arg(Arg::new("image"))
            .arg(Arg::new("command").num_args(0..).trailing_var_arg(true));
        Command::new("env86").subcommand(boot).subcommand(run)
    }

    fn normal(line: &[&str]) -> Result<Vec<String>, CompatError> {
        let arguments = std::iter::once("env86").chain(line.iter().copied()).map(OsString::from).collect();
        let out = normalise(arguments, &root())?;
        Ok(out.into_iter().skip(1).map(|a| a.into_string().unwrap()).collect())
    }

    #[test]
    fn one_dash_is_as_good_as_two() {
        let expected = ["boot", "--ttyS0", "--exit-on=login:", "--net", "--publish=8080:80", "img"];
        let lines: [&[&str]; 3] = [
            &["boot", "-ttyS0", "-exit-on", "login:", "-net", "-p", "8080:80", "img"],
            &["boot", "-ttyS0", "-exit-on=login:", "-n", "-p=8080:80", "img"],
            &["boot", "--ttyS0", "--exit-on=login:", "--n", "--p", "8080:80", "img"],
        ];
        for line in lines {
            assert_eq!(normal(line).unwrap(), expected, "{line:?}");
        }
        assert_eq!(normal(&["boot", "-p8080:80", "img"]).unwrap(), ["boot", "-p8080:80", "img"]);
    }

    #[test]
    fn value_of_a_flag_may_look_like_a_flag() {
        assert_eq!(
            normal(&["boot", "-exit-on", "-cold", "img"]).unwrap(),
            ["boot", "--exit-on=-cold", "img"]
        );
        assert_eq!(normal(&["boot", "-exit-on=a=b", "img"]).unwrap(), ["boot", "--exit-on=a=b", "img"]);
        assert_eq!(normal(&["boot", "-exit-on"]), Err(CompatError::MissingValue("-exit-on".to_owned())));
    }

    #[test]
    fn switches_take_truth_values_and_the_last_one_counts() {
        assert_eq!(normal(&["boot", "-cold=false", "img"]).unwrap(), ["boot", "img"]);
        assert_eq!(normal(&["boot", "-cold", "-cold=0", "img"]).unwrap(), ["boot", "img"]);
        assert_eq!(normal(&["boot", "-cold=F", "-cold=T", "img"]).unwrap(), ["boot", "--cold", "img"]);
        assert!(matches!(normal(&["boot", "-cold=maybe"]), Err(CompatError::NotBoolean { .. })));
    }

    #[test]
    fn flags_after_the_image_need_two_dashes() {
        let line = ["boot", "img", "--cold", "--exit-on", "-x", "--future=1"];
        let expected = ["boot", "img", "--cold", "--exit-on=-x", "--future=1"];
        assert_eq!(normal(&line).unwrap(), expected);
        let error = normal(&["boot", "img", "-cold"]).unwrap_err();
        assert_eq!(error.to_string(), "Flag after the image: -cold; write --cold");
    }

    #[test]
    fn what_follows_the_image_of_run_is_the_programs() {
        let line = ["run", "-n", "img", "ls", "-net", "--", "-la"];
        assert_eq!(normal(&line).unwrap(), ["run", "--net", "img", "ls", "-net", "--", "-la"]);
    }

    #[test]
    fn double_dash_ends_the_flags() {
        assert_eq!(normal(&["boot", "-cold", "--", "-img"]).unwrap(), ["boot", "--cold", "--", "-img"]);
    }

    #[test]
    fn switches_of_one_letter_may_stand_together() {
        let run = |line: &[&str]| normal(&[&["run"], line, &["img"]].concat());
        assert_eq!(run(&["-nt"]).unwrap(), ["run", "--net", "--tty", "img"]);
        assert!(run(&["-nx"]).is_err() && run(&["--nt"]).is_err() && run(&["-nt=true"]).is_err());
    }

    #[test]
    fn unknown_flags_come_with_the_one_that_is_like_them() {
        let error = normal(&["boot", "--publsh", "1:2", "img"]).unwrap_err().to_string();
        assert_eq!(error, "Unknown flag: --publsh; is it --publish?");
    }

    #[test]
    fn unknown_flags_are_named_as_written() {
        for flag in ["-nonsense", "--nonsense", "-z", "-é"] {
            let error = CompatError::UnknownFlag { found: flag.to_owned(), similar: None };
            assert_eq!(normal(&["boot", flag]), Err(error));
        }
        assert_eq!(normal(&["boot", "-help"]).unwrap(), ["boot", "--help"]);
        assert_eq!(normal(&["boot", "-h"]).unwrap(), ["boot", "-h"]);
        assert_eq!(normal(&["nonsense", "-x"]).unwrap(), ["nonsense", "-x"]);
        assert_eq!(normal(&["boot", "-"]).unwrap(), ["boot", "-"]);
    }
}
