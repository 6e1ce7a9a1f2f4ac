//! Where the kernel and the initrd come from.
//!
//! In order: `--kernel`/`--initrd`; the guest's file tree, if the image says
//! `bzimage_initrd_from_filesystem`; the image's `bzimage` (or `multiboot`) and `initrd`.
//! `--kernel` alone does not take the image's initrd, which belongs to the image's kernel;
//! `--initrd` alone replaces the image's.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::image_json::FileRef;
use super::{Image, ImageError, clean_name, read_limited};
use crate::limits;

/// Why there is no kernel to boot.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A file named by a flag cannot be read.
    #[error("Cannot read the {what}: {}", path.display())]
    Flag {
        /// "kernel" or "initrd".
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The host's reason.
        source: io::Error,
    },
    /// A file of the image cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A reference in `image.json` cannot be followed.
    #[error("Cannot use the image's {key}: {}: {reason}", image.display())]
    Url {
        /// The image.
        image: PathBuf,
        /// The key in `image.json`.
        key: &'static str,
        /// What is wrong with its URL.
        reason: UrlError,
    },
    /// The file is empty.
    #[error("Cannot use the {what}: {}: it is empty", path.display())]
    Empty {
        /// "kernel" or "initrd".
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The tree has no kernel or no initrd.
    #[error("Cannot boot the image: {}: no {what} in / or /boot of the guest's file tree", image.display())]
    NotInTree {
        /// The image.
        image: PathBuf,
        /// What is missing.
        what: &'static str,
    },
    /// The guest's file tree cannot be read.
    #[error("Cannot read from the guest's file tree: {}: {path}", image.display())]
    Tree {
        /// The image.
        image: PathBuf,
        /// The path in the guest.
        path: String,
        /// The reason.
        source: io::Error,
    },
    /// Nothing says which kernel to boot.
    #[error("Cannot boot the image: {}: it names no kernel", image.display())]
    None {
        /// The image.
        image: PathBuf,
    },
}

impl KernelError {
    /// What the user can try.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::None { .. } => Some(
                "give one with --kernel FILE [--initrd FILE], name it in image.json (\"bzimage\", \
                 \"initrd\"), or set \"bzimage_initrd_from_filesystem\" if the guest's /boot has one"
                    .to_owned(),
            ),
            Self::NotInTree { .. } => Some(
                "install a kernel package in the image, or give --kernel FILE [--initrd FILE]".to_owned(),
            ),
            Self::Url { reason: UrlError::Remote(_), key, .. } => {
                Some(format!("download it into the image and set \"{key}\": {{\"url\": \"./FILE\"}}"))
            }
            Self::Image(error) => error.hint(),
            _ => None,
        }
    }
}

/// Why a URL of `image.json` cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// On the network.
    #[error("{0}: files on the network are not supported yet")]
    Remote(String),
    /// A file that the old tool's web server had, or another scheme.
    #[error("{0}: it is not a file of the image")]
    NotInImage(String),
}

/// Name inside the image that a URL of `image.json` means: `./x`, `x` and `/image/x` are the file
/// `x` of the image.
///
/// # Errors
/// URLs that mean something else.
pub fn name_in_image(url: &str) -> Result<String, UrlError> {
    let scheme = url.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    match scheme.as_deref() {
        Some("http" | "https") => return Err(UrlError::Remote(url.to_owned())),
        Some(_) => return Err(UrlError::NotInImage(url.to_owned())),
        None if url.starts_with("//") => return Err(UrlError::Remote(url.to_owned())),
        None => {}
    }
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let path = path.strip_prefix("/image/").unwrap_or(path);
    let name = percent_decode(path).and_then(|path| clean_name(&path).ok());
    name.filter(|name| !name.is_empty()).ok_or_else(|| UrlError::NotInImage(url.to_owned()))
}

/// Replaces `%XX`; `None` if the result is not UTF-8. A `%` without two digits stands for itself.
fn percent_decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let code = match (byte, tail) {
            (b'%', [high, low, ..]) => {
                let digit = |c: u8| char::from(c).to_digit(16);
                digit(*high).zip(digit(*low)).and_then(|(high, low)| u8::try_from(high << 4 | low).ok())
            }
            _ => None,
        };
        match code {
            Some(code) => {
                out.push(code);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8(out).ok()
}

/// What kernel search needs from the guest's file tree.
pub trait GuestTree {
    /// Names of the regular files in directory `path`, in the order of the index.
    ///
    /// # Errors
    /// The directory cannot be read; a missing one has no files.
    fn files(&mut self, path: &str) -> io::Result<Vec<String>>;

    /// Content of the file `path`, at most `limit` bytes.
    ///
    /// # Errors
    /// It cannot be read or is larger.
    fn read(&mut self, path: &str, limit: u64) -> io::Result<Vec<u8>>;
}

/// What is booted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// bzImage, ELF or multiboot file.
    pub kernel: Vec<u8>,
    /// Initial RAM disk.
    pub initrd: Option<Vec<u8>>,
    /// Where the kernel came from, for messages.
    pub origin: String,
}

/// Kernel flags of the command line.
#[derive(Debug, Clone, Default)]
pub struct KernelFlags {
    /// `--kernel`.
    pub kernel: Option<PathBuf>,
    /// `--initrd`.
    pub initrd: Option<PathBuf>,
}

/// Finds and reads kernel and initrd.
///
/// # Errors
/// See [`KernelError`].
pub fn load(
    flags: &KernelFlags,
    image: &Image,
    tree: Option<&mut dyn GuestTree>,
) -> Result<Kernel, KernelError> {
    let flag = |what, path: &Option<PathBuf>, limit| {
        path.as_ref().map(|path| from_flag(what, path, limit)).transpose()
    };
    let kernel = flag("kernel", &flags.kernel, limits::MAX_KERNEL)?;
    let initrd = flag("initrd", &flags.initrd, limits::MAX_INITRD)?;
    if let (Some(kernel), Some(path)) = (kernel, &flags.kernel) {
        return Ok(Kernel { kernel, initrd, origin: path.display().to_string() });
    }
    let json = image.json();
    if json.kernel_from_filesystem {
        return from_tree(image, tree, initrd);
    }
    let (key, file) = match (&json.bzimage, &json.multiboot) {
        (Some(file), _) => ("bzimage", file),
        (None, Some(file)) => ("multiboot", file),
        (None, None) => return Err(KernelError::None { image: image.path().to_owned() }),
    };
    let kernel = from_image(image, key, file, "kernel", limits::MAX_KERNEL)?;
    let initrd = match (initrd, &json.initrd) {
        (None, Some(file)) => Some(from_image(image, "initrd", file, "initrd", limits::MAX_INITRD)?),
        (initrd, _) => initrd,
    };
    Ok(Kernel { kernel, initrd, origin: format!("{} of {}", file.url, image.path().display()) })
}

fn from_flag(what: &'static str, path: &Path, limit: u64) -> Result<Vec<u8>, KernelError> {
    let failed = |source| KernelError::Flag { what, path: path.to_owned(), source };
    // Pipes are fine here (`--initrd <(…)`): the user names the file.
    let file = File::open(path).map_err(failed)?;
    let len = file.metadata().map_err(failed)?.len();
    let too_large = || failed(io::Error::other(format!("larger than {limit} bytes")));
    if len > limit {
        return Err(too_large());
    }
    let bytes = read_limited(file, len, limit).map_err(failed)?.ok_or_else(too_large)?;
    if bytes.is_empty() {
        return Err(KernelError::Empty { what, path: path.to_owned() });
    }
    Ok(bytes)
}

fn from_image(
    image: &Image,
    key: &'static str,
    file: &FileRef,
    what: &'static str,
    limit: u64,
) -> Result<Vec<u8>, KernelError> {
    let name = name_in_image(&file.url).map_err(|reason| KernelError::Url {
        image: image.path().to_owned(),
        key,
        reason,
    })?;
    let bytes = image.read(&name, limit)?;
    if bytes.is_empty() {
        return Err(KernelError::Empty { what, path: image.file(&name) });
    }
    Ok(bytes)
}

fn from_tree(
    image: &Image,
    tree: Option<&mut dyn GuestTree>,
    initrd: Option<Vec<u8>>,
) -> Result<Kernel, KernelError> {
    let missing = |what| KernelError::NotInTree { image: image.path().to_owned(), what };
    let failed = |path: &str, source| KernelError::Tree {
        image: image.path().to_owned(),
        path: path.to_owned(),
        source,
    };
    let tree = tree.ok_or_else(|| missing("kernel"))?;

    let mut candidates = Vec::new();
    for dir in ["/", "/boot/"] {
        let files = tree.files(dir).map_err(|e| failed(dir, e))?;
        candidates.extend(files.into_iter().map(|name| format!("{dir}{name}")));
    }
    let mut read = |what: &'static str, words: &[&str], limit| {
        let path = pick(&candidates, words).ok_or_else(|| missing(what))?;
        let bytes = tree.read(path, limit).map_err(|e| failed(path, e))?;
        if bytes.is_empty() {
            return Err(KernelError::Empty { what, path: image.file(path) });
        }
        Ok((path.to_owned(), bytes))
    };
    let (path, kernel) = read("kernel", &["vmlinuz", "bzimage"], limits::MAX_KERNEL)?;
    let initrd = match initrd {
        None => read("initrd", &["initrd", "initramfs"], limits::MAX_INITRD)?.1,
        Some(initrd) => initrd,
    };
    Ok(Kernel { kernel, initrd: Some(initrd), origin: format!("{path} of the guest's file tree") })
}

/// The last path that contains one of `words` and is no old or fallback version; such a version
/// only if there is nothing before and nothing better after it. Case does not matter.
fn pick<'a>(paths: &'a [String], words: &[&str]) -> Option<&'a str> {
    let mut chosen = None;
    for path in paths {
        let lower = path.to_lowercase();
        if words.iter().any(|word| lower.contains(word)) {
            let old = lower.contains("old") || lower.contains("fallback");
            if chosen.is_none() || !old {
                chosen = Some(path.as_str());
            }
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Progress;
    use std::collections::HashMap;
    use std::fs;

    struct FakeTree(Vec<(&'static str, &'static [u8])>);

    impl GuestTree for FakeTree {
        fn files(&mut self, path: &str) -> io::Result<Vec<String>> {
            let inside = self.0.iter().filter_map(|(name, _)| name.strip_prefix(path));
            Ok(inside.filter(|name| !name.contains('/')).map(str::to_owned).collect())
        }
        fn read(&mut self, path: &str, _: u64) -> io::Result<Vec<u8>> {
            let files: HashMap<_, _> = self.0.iter().copied().collect();
            files.get(path).map(|b| b.to_vec()).ok_or_else(|| io::ErrorKind::NotFound.into())
        }
    }

    fn image(json: &str, files: &[(&str, &[u8])]) -> (tempfile::TempDir, Image) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("image.json"), json).unwrap();
        for (name, content) in files {
            fs::write(dir.path().join(name), content).unwrap();
        }
        let image = Image::open(dir.path(), &Progress::hidden()).unwrap();
        (dir, image)
    }

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn pick_takes_the_last_that_is_not_old() {
        let words = ["vmlinuz", "bzimage"];
        let cases: [(&[&str], Option<&str>); 6] = [
            (&["/vmlinuz", "/boot/vmlinuz-6.1"], Some("/boot/vmlinuz-6.1")),
            (&["/vmlinuz", "/vmlinuz.old"], Some("/vmlinuz")),
            (&["/vmlinuz.old"], Some("/vmlinuz.old")),
            (&["/vmlinuz.old", "/boot/BZIMAGE"], Some("/boot/BZIMAGE")),
            (&["/boot/vmlinuz-fallback", "/boot/vmlinuz-old"], Some("/boot/vmlinuz-fallback")),
            (&["/etc", "/boot/config"], None),
        ];
        for (paths, expected) in cases {
            let paths = strings(paths);
            assert_eq!(pick(&paths, &words), expected, "{paths:?}");
        }
    }

    #[test]
    fn url_means_a_file_of_the_image() {
        for url in ["./vmlinuz.bin", "vmlinuz.bin", "/image/vmlinuz.bin", "./a/../vmlinuz%2ebin?v=2#x"] {
            assert_eq!(name_in_image(url).as_deref(), Ok("vmlinuz.bin"), "{url}");
        }
        assert_eq!(name_in_image("100%").as_deref(), Ok("100%"));
    }

    #[test]
    fn url_elsewhere_is_refused() {
        for url in ["http://h/k", "HTTPS://h/k", "//h/k"] {
            assert_eq!(name_in_image(url), Err(UrlError::Remote(url.to_owned())));
        }
        for url in
            ["/vmlinuz.bin", "../k", "/image/../../k", "file:///etc/passwd", "", ".", "%2e%2e/k", "%ff"]
        {
            assert_eq!(name_in_image(url), Err(UrlError::NotInImage(url.to_owned())));
        }
    }

    #[test]
    fn load_prefers_flags_then_tree_then_image() {
        let json = r#"{"bzimage_initrd_from_filesystem": true, "bzimage": {"url": "k"}}"#;
        let (dir, from_tree) = image(json, &[("k", b"image kernel"), ("flag", b"flag kernel")]);
        let mut tree =
            FakeTree(vec![("/boot/vmlinuz-1", b"tree kernel"), ("/boot/initrd-1", b"tree initrd")]);
        let flags = KernelFlags { kernel: Some(dir.path().join("flag")), initrd: None };

        let loaded = load(&flags, &from_tree, Some(&mut tree)).unwrap();
        assert_eq!((loaded.kernel, loaded.initrd), (b"flag kernel".to_vec(), None));

        let loaded = load(&KernelFlags::default(), &from_tree, Some(&mut tree)).unwrap();
        assert_eq!((loaded.kernel, loaded.initrd), (b"tree kernel".to_vec(), Some(b"tree initrd".to_vec())));

        let flags = KernelFlags { kernel: None, initrd: Some(dir.path().join("flag")) };
        let loaded = load(&flags, &from_tree, Some(&mut tree)).unwrap();
        assert_eq!((loaded.kernel, loaded.initrd), (b"tree kernel".to_vec(), Some(b"flag kernel".to_vec())));

        let (_dir, plain) = image(
            r#"{"bzimage": {"url": "./k"}, "initrd": {"url": "/image/i"}}"#,
            &[("k", b"kernel"), ("i", b"initrd")],
        );
        let loaded = load(&KernelFlags::default(), &plain, None).unwrap();
        assert_eq!((loaded.kernel, loaded.initrd), (b"kernel".to_vec(), Some(b"initrd".to_vec())));
    }

    #[test]
    fn load_from_a_tree_needs_kernel_and_initrd() {
        let (_dir, image) = image(r#"{"bzimage_initrd_from_filesystem": true}"#, &[]);
        let flags = KernelFlags::default();
        for (mut tree, what) in [
            (FakeTree(vec![]), "kernel"),
            (FakeTree(vec![("/vmlinuz", b"k")]), "initrd"),
            (FakeTree(vec![("/initrd", b"i")]), "kernel"),
        ] {
            let error = load(&flags, &image, Some(&mut tree)).unwrap_err();
            assert!(error.to_string().contains(&format!("no {what} in / or /boot")), "{error}");
        }
        assert!(matches!(load(&flags, &image, None), Err(KernelError::NotInTree { .. })));
    }

    #[test]
    fn load_without_any_kernel_says_what_to_do() {
        let (_dir, image) = image("{}", &[]);
        let error = load(&KernelFlags::default(), &image, None).unwrap_err();
        assert!(error.hint().unwrap().contains("--kernel"));
    }

    #[test]
    fn load_of_oversized_files_hits_the_limit() {
        let (dir, image) = image(r#"{"bzimage": {"url": "big"}}"#, &[("k", b"kernel")]);
        let big = |bytes| File::create(dir.path().join("big")).unwrap().set_len(bytes).unwrap();
        let flag = |name: &str| Some(dir.path().join(name));
        big(limits::MAX_KERNEL + 1);
        let error = load(&KernelFlags::default(), &image, None).unwrap_err();
        assert!(matches!(error, KernelError::Image(ImageError::TooLarge { .. })), "{error}");
        let flags = KernelFlags { kernel: flag("big"), initrd: None };
        assert!(matches!(load(&flags, &image, None), Err(KernelError::Flag { what: "kernel", .. })));
        big(limits::MAX_INITRD + 1);
        let flags = KernelFlags { kernel: flag("k"), initrd: flag("big") };
        assert!(matches!(load(&flags, &image, None), Err(KernelError::Flag { what: "initrd", .. })));
        // A pipe has no size: it is counted while it is read.
        fs::write(dir.path().join("big"), b"12345").unwrap();
        assert!(from_flag("kernel", &dir.path().join("big"), 4).is_err());
        assert!(from_flag("kernel", &dir.path().join("big"), 5).is_ok());
    }

    #[test]
    fn load_of_missing_or_empty_files_fails() {
        let (dir, image) = image(r#"{"bzimage": {"url": "gone"}}"#, &[("empty", b"")]);
        let error = load(&KernelFlags::default(), &image, None).unwrap_err();
        assert!(matches!(error, KernelError::Image(ImageError::Missing { .. })), "{error}");
        let flags = KernelFlags { kernel: Some(dir.path().join("empty")), initrd: None };
        assert!(matches!(load(&flags, &image, None), Err(KernelError::Empty { .. })));
        let flags = KernelFlags { kernel: Some(dir.path().join("gone")), initrd: None };
        assert!(matches!(load(&flags, &image, None), Err(KernelError::Flag { .. })));
    }
}
