//! The store: images kept under names in env86's home directory.
//!
//! `alpine` and `alpine-env86` mean `<home>/alpine/latest`, or `<home>/alpine/local` if there is
//! no `latest`; `github.com/user/alpine@3.18` means `<home>/github.com/user/alpine/3.18`.
//! `latest` may be a symbolic link to another tag.

use std::ffi::OsStr;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::ImageError;

/// Tag looked for when none is written.
const DEFAULT_TAG: &str = "latest";

/// Tag of images made on this host; taken when there is no `latest`.
const LOCAL_TAG: &str = "local";

/// Suffix that repositories of images may have; it is no part of the image's name.
const REPO_SUFFIX: &str = "-env86";

/// Finds the image an argument means: a path if it exists as one, else a name in the store.
///
/// # Errors
/// [`ImageError::NotFound`], or the host's reason if the path exists but cannot be looked at.
pub fn resolve(argument: &OsStr, home: Option<&Path>) -> Result<PathBuf, ImageError> {
    let path = Path::new(argument);
    match std::fs::symlink_metadata(path) {
        Ok(_) if !argument.is_empty() => return Ok(path.to_owned()),
        // Any other failure may mean that the argument is a name and no possible path.
        Err(source) if source.kind() == io::ErrorKind::PermissionDenied => {
            return Err(ImageError::Open { path: path.to_owned(), source });
        }
        _ => {}
    }
    let named = home.zip(argument.to_str()).and_then(|(home, name)| find(home, name));
    named.ok_or_else(|| ImageError::NotFound {
        name: argument.to_owned(),
        home: is_name(path).then(|| home.map(Path::to_owned)).flatten(),
    })
}

/// Path of the stored image `name[@tag]`, if there is one.
fn find(home: &Path, name: &str) -> Option<PathBuf> {
    let mut parts = name.split('@');
    let image = parts.next().unwrap_or_default();
    let image = image.strip_suffix(REPO_SUFFIX).unwrap_or(image);
    let tag = parts.next();
    if !is_name(Path::new(image)) || tag.is_some_and(|tag| !is_name(Path::new(tag))) {
        return None;
    }
    let image = home.join(image);
    let found = image.join(tag.unwrap_or(DEFAULT_TAG)).canonicalize().ok();
    found.or_else(|| match tag {
        Some(_) => None,
        None => image.join(LOCAL_TAG).canonicalize().ok(),
    })
}

/// True if joining `name` to a directory stays below that directory.
fn is_name(name: &Path) -> bool {
    let mut components = name.components().peekable();
    components.peek().is_some() && components.all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn store() -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        for folder in [
            "alpine/latest",
            "alpine/3.18",
            "made/local",
            "both/latest",
            "both/local",
            "github.com/u/img/1.0",
        ] {
            fs::create_dir_all(home.path().join(folder)).unwrap();
        }
        home
    }

    fn tail(found: Option<PathBuf>, home: &tempfile::TempDir) -> Option<String> {
        let root = home.path().canonicalize().unwrap();
        found.map(|path| path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/"))
    }

    #[test]
    fn name_resolves_to_latest_then_local() {
        let home = store();
        let find = |name| tail(find(home.path(), name), &home);
        assert_eq!(find("alpine").as_deref(), Some("alpine/latest"));
        assert_eq!(find("alpine-env86").as_deref(), Some("alpine/latest"));
        assert_eq!(find("made").as_deref(), Some("made/local"));
        assert_eq!(find("both").as_deref(), Some("both/latest"));
        assert_eq!(find("nothing"), None);
    }

    #[test]
    fn name_with_a_tag_means_that_tag_only() {
        let home = store();
        let find = |name| tail(find(home.path(), name), &home);
        assert_eq!(find("alpine@3.18").as_deref(), Some("alpine/3.18"));
        assert_eq!(find("alpine@3.18@ignored").as_deref(), Some("alpine/3.18"));
        assert_eq!(find("github.com/u/img-env86@1.0").as_deref(), Some("github.com/u/img/1.0"));
        assert_eq!(find("made@latest"), None);
        assert_eq!(find("made@"), None);
    }

    #[test]
    fn name_never_leaves_the_store() {
        let home = store();
        let inside = home.path().join("alpine");
        for name in ["../made", "x/../../made", "/", "", "@latest", "3.18@../../made/local", "3.18@/"] {
            assert_eq!(find(&inside, name), None, "{name:?} was found");
        }
    }

    #[cfg(unix)]
    #[test]
    fn latest_may_be_a_link_and_a_circle_is_not_found() {
        let home = store();
        fs::create_dir_all(home.path().join("linked/2.0")).unwrap();
        std::os::unix::fs::symlink("2.0", home.path().join("linked/latest")).unwrap();
        fs::create_dir_all(home.path().join("circle")).unwrap();
        std::os::unix::fs::symlink("latest", home.path().join("circle/latest")).unwrap();
        assert_eq!(tail(find(home.path(), "linked"), &home).as_deref(), Some("linked/2.0"));
        assert_eq!(find(home.path(), "circle"), None);
    }

    #[test]
    fn argument_is_a_path_if_it_exists_as_one() {
        let home = store();
        let here = home.path().join("made/local");
        assert_eq!(resolve(here.as_os_str(), None).unwrap(), here);
        let named = resolve(OsStr::new("alpine"), Some(home.path())).unwrap();
        assert!(named.ends_with("alpine/latest"));
        let gone = resolve(OsStr::new("no-such-image"), Some(home.path())).unwrap_err();
        assert!(gone.to_string().contains("no image of that name in"), "{gone}");
        let path = resolve(OsStr::new("./no-such-image"), Some(home.path())).unwrap_err();
        assert!(path.to_string().ends_with("no such path"), "{path}");
        assert!(resolve(OsStr::new(""), Some(home.path())).is_err());
    }
}
