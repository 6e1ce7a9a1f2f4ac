//! Where env86 keeps its files.

use std::ffi::OsString;
use std::path::PathBuf;

/// Environment variable that moves the home directory.
pub const HOME_VARIABLE: &str = "ENV86_PATH";

/// Home directory of env86: `$ENV86_PATH`, else `%APPDATA%\env86` on Windows, else `~/.env86`.
/// `None` if the host knows no home directory.
pub fn home() -> Option<PathBuf> {
    home_from(|name| std::env::var_os(name), std::env::home_dir(), cfg!(windows))
}

fn home_from(
    variable: impl Fn(&str) -> Option<OsString>,
    user_home: Option<PathBuf>,
    windows: bool,
) -> Option<PathBuf> {
    let set = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = set(HOME_VARIABLE) {
        return Some(path);
    }
    if windows && let Some(path) = set("APPDATA") {
        return Some(path.join("env86"));
    }
    user_home.filter(|path| !path.as_os_str().is_empty()).map(|path| path.join(".env86"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vars(list: &'static [(&str, &str)]) -> impl Fn(&str) -> Option<OsString> {
        move |name| list.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v))
    }

    #[test]
    fn home_variable_wins_unless_empty() {
        let user = || Some(PathBuf::from("/home/u"));
        assert_eq!(home_from(vars(&[("ENV86_PATH", "/e")]), user(), false), Some(PathBuf::from("/e")));
        assert_eq!(
            home_from(vars(&[("ENV86_PATH", "")]), user(), false),
            Some(PathBuf::from("/home/u/.env86"))
        );
        assert_eq!(home_from(vars(&[]), None, false), None);
    }

    #[test]
    fn home_on_windows_is_in_appdata() {
        let found = home_from(vars(&[("APPDATA", "/roaming")]), Some(PathBuf::from("/home/u")), true);
        assert_eq!(found, Some(PathBuf::from("/roaming").join("env86")));
        let elsewhere = home_from(vars(&[("APPDATA", "/roaming")]), Some(PathBuf::from("/home/u")), false);
        assert_eq!(elsewhere, Some(PathBuf::from("/home/u/.env86")));
    }
}
