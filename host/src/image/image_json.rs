//! `image.json`: the image's configuration.
//!
//! The file is an object of v86 and env86 options, all optional. It is kept as it is; the keys
//! this version knows are also read into typed fields, and a known key with a value of the wrong
//! type is an error. Keys it does not know are left alone: v86 has more options than this list.

use serde_json::{Map, Value};

/// Why a configuration is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// The file is not JSON.
    #[error("{0}")]
    Syntax(String),
    /// It is JSON, but no object.
    #[error("expected an object, found {0}")]
    NotAnObject(&'static str),
    /// A key has a value that makes no sense.
    #[error("key {key:?}: {reason}")]
    Key {
        /// The key; nested ones are joined with a dot.
        key: String,
        /// What is wrong with its value.
        reason: String,
    },
}

/// Reference to a file: the object `{"url": …, "async": …, "size": …}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRef {
    /// Where the file is, as written: relative to the image, or an http(s) URL.
    pub url: String,
    /// Fetch pieces on demand instead of the whole file; a matter of speed only.
    pub is_async: bool,
    /// Size in bytes, if given.
    pub size: Option<u64>,
}

/// `filesystem`: where the 9p tree comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilesystemRef {
    /// URL prefix of the file contents.
    pub baseurl: String,
    /// URL of the index (`fs.json`).
    pub basefs: String,
}

impl Default for FilesystemRef {
    fn default() -> Self {
        Self { baseurl: "/image/fs/".to_owned(), basefs: "/image/fs.json".to_owned() }
    }
}

/// A parsed `image.json`.
#[derive(Debug, Clone, Default)]
pub struct ImageJson {
    /// The whole object as read, unknown keys included.
    pub raw: Map<String, Value>,
    /// Kernel command line.
    pub cmdline: Option<String>,
    /// Take kernel and initrd from the guest's file tree.
    pub kernel_from_filesystem: bool,
    /// The guest service listens on COM2.
    pub has_guest_service: bool,
    /// Keep the MAC address stored in the snapshot.
    pub preserve_mac: bool,
    /// Guest RAM in bytes.
    pub memory_size: Option<u64>,
    /// Video memory in bytes.
    pub vga_memory_size: Option<u64>,
    /// Explicit snapshot.
    pub initial_state: Option<FileRef>,
    /// Number of pieces of a split snapshot (`state/initial.state.N`).
    pub initial_state_parts: Option<u64>,
    /// Source of the 9p tree, if given.
    pub filesystem: Option<FilesystemRef>,
    /// Firmware.
    pub bios: Option<FileRef>,
    /// Video firmware.
    pub vga_bios: Option<FileRef>,
    /// Linux kernel.
    pub bzimage: Option<FileRef>,
    /// Initial RAM disk.
    pub initrd: Option<FileRef>,
    /// Multiboot kernel.
    pub multiboot: Option<FileRef>,
    /// Drives that are present, by key (`hda`, `hdb`, `fda`, `fdb`, `cdrom`).
    pub drives: Vec<(&'static str, FileRef)>,
    /// Relay for the network card.
    pub network_relay_url: Option<String>,
    /// Kind of network card (`net_device.type`), e.g. `ne2k` or `virtio`.
    pub net_device: Option<String>,
    /// ACPI tables and power management.
    pub acpi: bool,
    /// COM3 exists.
    pub uart2: bool,
    /// COM4 exists.
    pub uart3: bool,
    /// A virtio console exists.
    pub virtio_console: bool,
    /// A virtio balloon exists.
    pub virtio_balloon: bool,
    /// Highest standard CPUID leaf.
    pub cpuid_level: Option<u32>,
    /// Interpret everything.
    pub disable_jit: bool,
    /// The host's keyboard does not reach the guest.
    pub disable_keyboard: bool,
    /// The host's mouse does not reach the guest.
    pub disable_mouse: bool,
}

/// Keys of drives.
const DRIVES: [&str; 5] = ["hda", "hdb", "fda", "fdb", "cdrom"];

impl ImageJson {
    /// Reads the text of an `image.json`.
    ///
    /// # Errors
    /// Syntax, or the first known key whose value makes no sense.
    pub fn parse(text: &[u8]) -> Result<Self, JsonError> {
        if text.starts_with(b"\xEF\xBB\xBF") || text.starts_with(b"\xFF\xFE") || text.starts_with(b"\xFE\xFF")
        {
            let reason = "it starts with a byte order mark; save it as UTF-8 without one";
            return Err(JsonError::Syntax(reason.to_owned()));
        }
        // serde_json bounds nesting, so that a hostile file cannot exhaust the stack.
        let value: Value = serde_json::from_slice(text).map_err(|e| JsonError::Syntax(e.to_string()))?;
        let Value::Object(raw) = value else { return Err(JsonError::NotAnObject(kind(&value))) };
        Self::from_object(raw)
    }

    fn from_object(raw: Map<String, Value>) -> Result<Self, JsonError> {
        let keys = Keys { map: &raw, prefix: String::new() };
        let mut drives = Vec::new();
        for key in DRIVES {
            if let Some(drive) = keys.file(key)? {
                drives.push((key, drive));
            }
        }
        let this = Self {
            cmdline: keys.string("cmdline")?,
            kernel_from_filesystem: keys.boolean("bzimage_initrd_from_filesystem")?,
            has_guest_service: keys.boolean("has_guest_service")?,
            preserve_mac: keys.boolean("preserve_mac_from_state_image")?,
            memory_size: keys.integer("memory_size")?,
            vga_memory_size: keys.integer("vga_memory_size")?,
            initial_state: keys.file("initial_state")?,
            initial_state_parts: keys.integer("initial_state_parts")?.filter(|parts| *parts > 0),
            filesystem: keys.filesystem("filesystem")?,
            bios: keys.file("bios")?,
            vga_bios: keys.file("vga_bios")?,
            bzimage: keys.file("bzimage")?,
            initrd: keys.file("initrd")?,
            multiboot: keys.file("multiboot")?,
            drives,
            network_relay_url: keys.string("network_relay_url")?.filter(|url| !url.is_empty()),
            net_device: match keys.object("net_device")? {
                Some(device) => device.string("type")?,
                None => None,
            },
            acpi: keys.boolean("acpi")?,
            uart2: keys.boolean("uart2")?,
            uart3: keys.boolean("uart3")?,
            virtio_console: keys.boolean("virtio_console")?,
            virtio_balloon: keys.boolean("virtio_balloon")?,
            cpuid_level: match keys.integer("cpuid_level")? {
                Some(level) => {
                    Some(u32::try_from(level).map_err(|_| keys.wrong("cpuid_level", "too large"))?)
                }
                None => None,
            },
            disable_jit: keys.boolean("disable_jit")?,
            disable_keyboard: keys.boolean("disable_keyboard")?,
            disable_mouse: keys.boolean("disable_mouse")?,
            raw: Map::new(),
        };
        if this.cmdline.as_ref().is_some_and(|line| line.contains('\0')) {
            return Err(keys.wrong("cmdline", "it contains a NUL character"));
        }
        Ok(Self { raw, ..this })
    }
}

/// What a JSON value is, in words.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Typed access to an object; `null` counts as absent, as it does in the old tool.
struct Keys<'a> {
    map: &'a Map<String, Value>,
    prefix: String,
}

impl<'a> Keys<'a> {
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn wrong(&self, key: &str, reason: impl Into<String>) -> JsonError {
        JsonError::Key { key: format!("{}{key}", self.prefix), reason: reason.into() }
    }

    fn expected(&self, key: &str, what: &str, found: &Value) -> JsonError {
        self.wrong(key, format!("expected {what}, found {}", kind(found)))
    }

    fn string(&self, key: &str) -> Result<Option<String>, JsonError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s.clone())),
            Some(other) => Err(self.expected(key, "a string", other)),
        }
    }

    fn boolean(&self, key: &str) -> Result<bool, JsonError> {
        match self.get(key) {
            None => Ok(false),
            Some(Value::Bool(b)) => Ok(*b),
            Some(other) => Err(self.expected(key, "true or false", other)),
        }
    }

    /// A whole number from 0; `1e6` is one.
    fn integer(&self, key: &str) -> Result<Option<u64>, JsonError> {
        let number = match self.get(key) {
            None => return Ok(None),
            Some(Value::Number(number)) => number,
            Some(other) => return Err(self.expected(key, "a number", other)),
        };
        if let Some(n) = number.as_u64() {
            return Ok(Some(n));
        }
        /// Largest number up to which a double holds every whole number.
        const EXACT: f64 = 9_007_199_254_740_992.0;
        match number.as_f64() {
            Some(f) if (0.0..=EXACT).contains(&f) && f.fract() == 0.0 => Ok(Some(f as u64)),
            _ => Err(self.wrong(key, format!("expected a whole number from 0, found {number}"))),
        }
    }

    fn object(&self, key: &str) -> Result<Option<Keys<'a>>, JsonError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Keys { map, prefix: format!("{}{key}.", self.prefix) })),
            Some(other) => Err(self.expected(key, "an object", other)),
        }
    }

    fn file(&self, key: &str) -> Result<Option<FileRef>, JsonError> {
        let Some(object) = self.object(key)? else { return Ok(None) };
        let url = match object.string("url")? {
            Some(url) if !url.is_empty() => url,
            // The old tool wrote objects with empty fields for "not set".
            Some(_) => return Ok(None),
            None if object.map.is_empty() => return Ok(None),
            None => return Err(self.wrong(key, "it has no \"url\"")),
        };
        Ok(Some(FileRef { url, is_async: object.boolean("async")?, size: object.integer("size")? }))
    }

    fn filesystem(&self, key: &str) -> Result<Option<FilesystemRef>, JsonError> {
        let Some(object) = self.object(key)? else { return Ok(None) };
        let default = FilesystemRef::default();
        let basefs = match object.get("basefs") {
            Some(Value::Object(_)) => object.file("basefs")?.map(|file| file.url),
            _ => object.string("basefs")?,
        };
        // Without an index both are the default's: contents belong to an index.
        let Some(basefs) = basefs.filter(|url| !url.is_empty()) else { return Ok(Some(default)) };
        let baseurl = object.string("baseurl")?.filter(|url| !url.is_empty());
        Ok(Some(FilesystemRef { baseurl: baseurl.unwrap_or(default.baseurl), basefs }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ImageJson, JsonError> {
        ImageJson::parse(text.as_bytes())
    }

    fn message(text: &str) -> String {
        parse(text).expect_err(text).to_string()
    }

    #[test]
    fn empty_object_gives_defaults() {
        let json = parse("{}").unwrap();
        assert_eq!(json.memory_size, None);
        assert!(!json.acpi && !json.kernel_from_filesystem);
        assert_eq!(json.filesystem, None);
    }

    #[test]
    fn known_keys_are_read_and_unknown_ones_kept() {
        let json = parse(
            r#"{"cmdline": "ro", "memory_size": 1.34217728e8, "acpi": true, "future": {"x": [1]},
                "hda": {"url": "./disk.img", "async": true, "size": 5}, "bios": null,
                "initrd": {"url": ""}, "bzimage": {}, "net_device": {"type": "virtio"}}"#,
        )
        .unwrap();
        assert_eq!(json.cmdline.as_deref(), Some("ro"));
        assert_eq!(json.memory_size, Some(128 << 20));
        assert!(json.acpi);
        assert_eq!(
            json.drives,
            [("hda", FileRef { url: "./disk.img".to_owned(), is_async: true, size: Some(5) })]
        );
        assert_eq!((json.initrd, json.bzimage), (None, None));
        assert_eq!(json.net_device.as_deref(), Some("virtio"));
        assert_eq!(json.raw["future"]["x"][0], 1);
    }

    #[test]
    fn filesystem_without_an_index_is_the_default_one() {
        let json = parse(r#"{"filesystem": {"baseurl": "elsewhere/"}}"#).unwrap();
        assert_eq!(json.filesystem, Some(FilesystemRef::default()));
        let json = parse(r#"{"filesystem": {"baseurl": "b", "basefs": {"url": "./i.json"}}}"#).unwrap();
        let expected = FilesystemRef { baseurl: "b".to_owned(), basefs: "./i.json".to_owned() };
        assert_eq!(json.filesystem, Some(expected));
    }

    #[test]
    fn wrong_types_name_key_and_reason() {
        let cases = [
            (r#"{"cmdline": 5}"#, r#"key "cmdline": expected a string, found a number"#),
            (r#"{"acpi": "yes"}"#, r#"key "acpi": expected true or false, found a string"#),
            (r#"{"memory_size": "512M"}"#, r#"key "memory_size": expected a number, found a string"#),
            (r#"{"memory_size": -1}"#, r#"key "memory_size": expected a whole number from 0, found -1"#),
            (r#"{"memory_size": 1.5}"#, r#"key "memory_size": expected a whole number from 0, found 1.5"#),
            (r#"{"vga_memory_size": 1e300}"#, r#"key "vga_memory_size": expected a whole number"#),
            (r#"{"hda": "x"}"#, r#"key "hda": expected an object, found a string"#),
            (r#"{"hda": {"size": 1}}"#, r#"key "hda": it has no "url""#),
            (r#"{"cdrom": {"url": []}}"#, r#"key "cdrom.url": expected a string, found an array"#),
            (r#"{"filesystem": {"basefs": {"url": 1}}}"#, r#"key "filesystem.basefs.url": expected"#),
            (r#"{"cpuid_level": 4294967296}"#, r#"key "cpuid_level": too large"#),
            (r#"{"cmdline": "a\u0000b"}"#, r#"key "cmdline": it contains a NUL"#),
        ];
        for (text, expected) in cases {
            let found = message(text);
            assert!(found.starts_with(expected), "{text}: {found}");
        }
    }

    #[test]
    fn what_is_no_object_is_refused() {
        assert_eq!(message("[]"), "expected an object, found an array");
        assert_eq!(message("null"), "expected an object, found null");
        assert!(message("\u{FEFF}{}").contains("byte order mark"));
        assert!(message("").contains("EOF"));
        assert!(message("{\"a\":").contains("line 1"));
        assert!(message("{} x").contains("trailing"));
        assert!(ImageJson::parse(b"{\"a\": \"\xFF\"}").is_err());
        assert!(ImageJson::parse(b"\xFF\xFE{\0}\0").is_err());
    }

    #[test]
    fn deep_nesting_is_refused_without_recursion() {
        let deep = format!("{{\"a\": {}", "[".repeat(200_000));
        assert!(message(&deep).contains("recursion limit"));
    }

    #[test]
    fn text_cut_anywhere_is_an_error() {
        let text = r#"{"cmdline": "rw", "hda": {"url": "x"}, "n": [1, 2.5e3, null, true]}"#;
        for len in 0..text.len() {
            assert!(parse(&text[..len]).is_err(), "cut at {len} was accepted");
        }
    }
}
