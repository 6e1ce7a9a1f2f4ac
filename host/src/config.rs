//! Flags and `image.json`, resolved once into what a run needs.

use std::path::PathBuf;
use std::time::Duration;

use emu_devices::machine::{NetworkCard, SERIAL_PORTS, ram_size, vga_size};

use crate::image::Image;
use crate::image::kernel_source::KernelFlags;
use crate::limits;

/// Guest RAM when neither flag nor image says otherwise.
pub const DEFAULT_MEMORY: u64 = 512 << 20;

/// Video memory when the image does not say otherwise.
pub const DEFAULT_VGA_MEMORY: u64 = 8 << 20;

/// Highest standard CPUID leaf when the image does not say otherwise.
pub const DEFAULT_CPUID_LEVEL: u32 = 0x16;

/// How long a guest has to be idle and silent before the end of piped input ends the run.
pub const DEFAULT_LINGER: Duration = Duration::from_millis(300);

/// What executes instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Engine {
    /// The fastest one this host has.
    #[default]
    Auto,
    /// The interpreter.
    Interp,
    /// Translation to host code.
    Jit,
}

/// How the translator works, where there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Translator {
    /// Its options.
    pub options: emu_jit::Options,
    /// Names of translations go to a file for Linux `perf`.
    pub perf_map: bool,
}

/// Where guest time comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ClockMode {
    /// It follows the host's.
    #[default]
    Host,
    /// It is a function of retired instructions: the same run gives the same trace.
    Deterministic,
}

/// What Ctrl-D at the terminal does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CtrlD {
    /// It ends the run.
    Exit,
    /// It reaches the guest.
    Guest,
}

/// What the user asked of the guest's network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetWishes {
    /// The network card is connected.
    pub connect: bool,
    /// It is not, whatever the image says.
    pub refuse: bool,
    /// The network card, if chosen.
    pub card: Option<NetworkCard>,
}

/// What the user asked for.
#[derive(Clone, Debug, Default)]
pub struct BootOptions {
    /// Guest RAM in bytes.
    pub memory: Option<u64>,
    /// Replaces the image's kernel command line.
    pub cmdline: Option<String>,
    /// Added to the kernel command line.
    pub append: Option<String>,
    /// Engine, if chosen.
    pub engine: Option<Engine>,
    /// How the translator works.
    pub translator: Translator,
    /// Clock.
    pub clock: ClockMode,
    /// Kernel and initrd files.
    pub kernel: KernelFlags,
    /// End the run after this time.
    pub timeout: Option<Duration>,
    /// End the run when the guest has printed these bytes.
    pub exit_on: Option<Vec<u8>>,
    /// What Ctrl-D does, if chosen.
    pub ctrl_d: Option<CtrlD>,
    /// See [`DEFAULT_LINGER`].
    pub linger: Option<Duration>,
    /// The machine's state is saved at the end.
    pub save: bool,
    /// The guest's network.
    pub net: NetWishes,
}

/// What ends a run, and what the terminal does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// End the run after this time.
    pub timeout: Option<Duration>,
    /// End the run when the guest has printed these bytes. Never empty.
    pub exit_on: Option<Vec<u8>>,
    /// What Ctrl-D at the terminal does.
    pub ctrl_d: CtrlD,
    /// See [`DEFAULT_LINGER`].
    pub linger: Duration,
}

/// Everything about a boot that does not depend on the contents of large files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootConfig {
    /// Guest RAM in bytes.
    pub memory_size: u64,
    /// The same, if flags or image say so; a snapshot has a size of its own.
    pub asked_memory: Option<u64>,
    /// A network card from a snapshot keeps its address.
    pub preserve_mac: bool,
    /// The network card.
    pub network_card: NetworkCard,
    /// It is connected.
    pub network: bool,
    /// Video memory in bytes.
    pub vga_memory_size: u32,
    /// ACPI tables and power management.
    pub acpi: bool,
    /// COM1 to COM4 exist.
    pub uarts: [bool; SERIAL_PORTS],
    /// Highest standard CPUID leaf.
    pub cpuid_level: u32,
    /// Kernel command line.
    pub cmdline: String,
    /// What executes instructions.
    pub engine: Engine,
    /// How the translator works.
    pub translator: Translator,
    /// Where guest time comes from.
    pub clock: ClockMode,
    /// What ends the run.
    pub session: SessionConfig,
}

/// Why flags and image do not make a machine.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Something essential that this version cannot do.
    #[error("Cannot boot the image: {}: {what} not available yet", image.display())]
    NotYet {
        /// The image.
        image: PathBuf,
        /// What, with its verb: "drives (hda) are".
        what: String,
        /// What to do instead.
        hint: Option<&'static str>,
    },
    /// The kernel command line is too long.
    #[error("Cannot boot the image: {}: kernel command line longer than {} bytes", image.display(),
        limits::MAX_CMDLINE)]
    CmdlineTooLong {
        /// The image.
        image: PathBuf,
    },
}

impl ConfigError {
    /// What the user can try.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotYet { hint, .. } => hint.map(str::to_owned),
            Self::CmdlineTooLong { .. } => None,
        }
    }
}

impl BootConfig {
    /// Resolves flags and image; `warm` if a snapshot is restored. The second value holds warnings: what the image asks for and
    /// this version leaves out, although the guest can do without.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn resolve(
        options: &BootOptions,
        image: &Image,
        warm: bool,
    ) -> Result<(Self, Vec<String>), ConfigError> {
        let json = image.json();
        let path = || image.path().to_owned();
        let not_yet = |what: String, hint| ConfigError::NotYet { image: path(), what, hint };
        let mut warnings = Vec::new();

        if !json.drives.is_empty() {
            let names: Vec<_> = json.drives.iter().map(|(key, _)| *key).collect();
            return Err(not_yet(format!("drives ({}) are", names.join(", ")), None));
        }
        let has_kernel = options.kernel.kernel.is_some()
            || json.kernel_from_filesystem
            || json.bzimage.is_some()
            || json.multiboot.is_some();
        if json.bios.is_some() && !has_kernel && !warm {
            let hint = "give a Linux kernel with --kernel FILE [--initrd FILE]";
            return Err(not_yet("booting from firmware (bios) is".to_owned(), Some(hint)));
        }
        let optional = [("virtio_console", json.virtio_console), ("virtio_balloon", json.virtio_balloon)];
        for (key, asked) in optional {
            if asked {
                warnings.push(format!("{}: {key} is not available yet and left out", image.path().display()));
            }
        }

        if json.network_relay_url.is_some() && !options.net.connect && !options.net.refuse {
            warnings.push(format!(
                "{}: network_relay_url is left out; --net gives the guest a network",
                image.path().display()
            ));
        }
        let network_card = options.net.card.unwrap_or(match json.net_device.as_deref() {
            None | Some("ne2k") => NetworkCard::Ne2000,
            Some("virtio") => NetworkCard::Virtio,
            // As v86 has it.
            Some(_) => NetworkCard::None,
        });

        let mut cmdline = options.cmdline.clone().or_else(|| json.cmdline.clone()).unwrap_or_default();
        if let Some(append) = options.append.as_deref().filter(|text| !text.is_empty()) {
            if !cmdline.is_empty() {
                cmdline.push(' ');
            }
            cmdline.push_str(append);
        }
        if cmdline.len() > limits::MAX_CMDLINE {
            return Err(ConfigError::CmdlineTooLong { image: path() });
        }

        let flags = [
            ("--kernel", options.kernel.kernel.is_some()),
            ("--initrd", options.kernel.initrd.is_some()),
            ("--cmdline", options.cmdline.is_some()),
            ("--append", options.append.is_some()),
        ];
        let unused: Vec<_> =
            flags.iter().filter(|(_, given)| warm && *given).map(|(flag, _)| *flag).collect();
        if !unused.is_empty() {
            let unused = unused.join(", ");
            warnings.push(format!(
                "started from a snapshot: {unused} count when the guest reboots (or with --cold)"
            ));
        }

        if warm && options.net.card.is_some() {
            warnings.push(
                "started from a snapshot, which has its network card: --nic counts with --cold".to_owned(),
            );
        }

        let vga_memory = json.vga_memory_size.unwrap_or(DEFAULT_VGA_MEMORY);
        let vga_memory = u32::try_from(vga_memory).unwrap_or(u32::MAX);
        let config = Self {
            asked_memory: options.memory.or(json.memory_size).map(ram_size),
            preserve_mac: json.preserve_mac,
            memory_size: ram_size(options.memory.or(json.memory_size).unwrap_or(DEFAULT_MEMORY)),
            network_card,
            network: options.net.connect,
            vga_memory_size: vga_size(vga_memory),
            acpi: json.acpi,
            // COM2 is always there: the guest service has it, or finds nobody.
            uarts: [true, true, json.uart2, json.uart3],
            cpuid_level: json.cpuid_level.unwrap_or(DEFAULT_CPUID_LEVEL),
            cmdline,
            engine: options.engine.unwrap_or_default(),
            translator: options.translator,
            clock: options.clock,
            session: SessionConfig {
                timeout: options.timeout,
                exit_on: options.exit_on.clone().filter(|text| !text.is_empty()),
                ctrl_d: options.ctrl_d.unwrap_or(if options.save { CtrlD::Exit } else { CtrlD::Guest }),
                linger: options.linger.unwrap_or(DEFAULT_LINGER),
            },
        };
        Ok((config, warnings))
    }

    /// Guest RAM in bytes, with the larger minimum that an initrd needs.
    pub fn memory_size_with(&self, has_initrd: bool) -> u64 {
        if has_initrd { self.memory_size.max(limits::MIN_MEMORY_WITH_INITRD) } else { self.memory_size }
    }
}

/// Reads a size: a number of bytes, or one with a unit (`K`, `M`, `G`, also `KiB`, `KB`, …, all
/// powers of 1024).
///
/// # Errors
/// What is wrong, in words.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim().to_ascii_lowercase();
    let shift = match unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(&unit) {
        "" if unit == "ib" => None,
        "" => Some(0),
        "k" => Some(10),
        "m" => Some(20),
        "g" => Some(30),
        _ => None,
    };
    let wrong = || "expected a size such as 512M or 1G".to_owned();
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift.ok_or_else(wrong)?).ok_or_else(|| "too large".to_owned())
}

/// Reads the size of a machine's memory.
///
/// # Errors
/// What is wrong, in words.
pub fn parse_memory(text: &str) -> Result<u64, String> {
    let size = parse_size(text)?;
    if size < limits::MIN_MEMORY {
        return Err("at least 1M is needed".to_owned());
    }
    // 2G itself is taken: it is what people write for the largest machine, which has a bit less.
    if size > limits::MAX_MEMORY {
        return Err("a machine has at most 2G".to_owned());
    }
    Ok(size)
}

/// Reads a time in seconds, fractions allowed.
///
/// # Errors
/// What is wrong, in words.
pub fn parse_seconds(text: &str) -> Result<Duration, String> {
    /// A century: longer means "for ever", and larger numbers overflow deadlines.
    const MAX: f64 = 3.2e9;
    match text.trim().parse::<f64>() {
        Ok(seconds) if (0.0..=MAX).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("expected a number of seconds".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Progress;
    use std::fs;

    fn image(json: &str) -> (tempfile::TempDir, Image) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("image.json"), json).unwrap();
        let image = Image::open(dir.path(), &Progress::hidden()).unwrap();
        (dir, image)
    }

    fn resolve(json: &str, options: &BootOptions) -> Result<(BootConfig, Vec<String>), ConfigError> {
        let (_dir, image) = image(json);
        BootConfig::resolve(options, &image, false)
    }

    #[test]
    fn empty_image_gives_the_old_tools_machine() {
        let (config, warnings) = resolve("{}", &BootOptions::default()).unwrap();
        assert_eq!(config.memory_size, 512 << 20);
        assert_eq!(config.vga_memory_size, 8 << 20);
        assert_eq!(config.uarts, [true, true, false, false]);
        assert_eq!(config.session.ctrl_d, CtrlD::Guest);
        assert!(!config.acpi && warnings.is_empty() && config.cmdline.is_empty());
    }

    #[test]
    fn flags_win_over_the_image() {
        let options = BootOptions {
            memory: Some(64 << 20),
            cmdline: Some("a".to_owned()),
            append: Some("b".to_owned()),
            save: true,
            ..Default::default()
        };
        let (config, _) = resolve(r#"{"memory_size": 134217728, "cmdline": "x"}"#, &options).unwrap();
        assert_eq!(config.memory_size, 64 << 20);
        assert_eq!(config.cmdline, "a b");
        assert_eq!(config.session.ctrl_d, CtrlD::Exit);
        let append = BootOptions { append: Some("y".to_owned()), ..Default::default() };
        assert_eq!(resolve(r#"{"cmdline": "x"}"#, &append).unwrap().0.cmdline, "x y");
        assert_eq!(resolve("{}", &append).unwrap().0.cmdline, "y");
    }

    #[test]
    fn memory_sizes_are_rounded_as_v86_does() {
        for (json, memory, video) in [
            (r#"{"memory_size": 0, "vga_memory_size": 0}"#, 1 << 20, 256 << 10),
            (r#"{"memory_size": 1048577, "vga_memory_size": 5e6}"#, (1 << 20) + (128 << 10), 8 << 20),
            (r#"{"memory_size": 1e15, "vga_memory_size": 1e15}"#, (2 << 30) - (128 << 10), 256 << 20),
        ] {
            let (config, _) = resolve(json, &BootOptions::default()).unwrap();
            assert_eq!((config.memory_size, config.vga_memory_size), (memory, video), "{json}");
        }
        let (config, _) = resolve(r#"{"memory_size": 1048576}"#, &BootOptions::default()).unwrap();
        assert_eq!((config.memory_size_with(false), config.memory_size_with(true)), (1 << 20, 64 << 20));
    }

    #[test]
    fn what_comes_later_and_is_essential_is_an_error() {
        for (json, word) in [
            (r#"{"hda": {"url": "./d"}, "cdrom": {"url": "./c"}}"#, "drives (hda, cdrom) are"),
            (r#"{"bios": {"url": "./b"}}"#, "firmware"),
        ] {
            let error = resolve(json, &BootOptions::default()).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains("not available yet"), "{error}");
        }
    }

    #[test]
    fn start_from_a_snapshot_needs_no_kernel_and_warns_about_one() {
        let (_dir, image) = image(r#"{"bios": {"url": "./b"}}"#);
        assert!(BootConfig::resolve(&BootOptions::default(), &image, false).is_err());
        let (config, warnings) = BootConfig::resolve(&BootOptions::default(), &image, true).unwrap();
        assert_eq!((config.asked_memory, warnings), (None, vec![]));
        let options = BootOptions {
            memory: Some(64 << 20),
            append: Some("quiet".to_owned()),
            cmdline: Some("x".to_owned()),
            ..Default::default()
        };
        let (config, warnings) = BootConfig::resolve(&options, &image, true).unwrap();
        assert_eq!(config.asked_memory, Some(64 << 20));
        assert!(warnings.len() == 1 && warnings[0].contains("--cmdline, --append"), "{warnings:?}");
    }

    #[test]
    fn what_comes_later_and_is_optional_is_a_warning() {
        let json = r#"{"virtio_balloon": true, "network_relay_url": "wss://x", "bios": {"url": "./b"},
                       "bzimage": {"url": "./k"}}"#;
        let (_, warnings) = resolve(json, &BootOptions::default()).unwrap();
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        let net = NetWishes { connect: true, ..NetWishes::default() };
        let (config, warnings) = resolve(json, &BootOptions { net, ..BootOptions::default() }).unwrap();
        assert!(warnings.len() == 1 && config.network, "{warnings:?}");
    }

    #[test]
    fn network_card_is_the_flags_else_the_images_else_v86s() {
        for (json, flag, card) in [
            ("{}", None, NetworkCard::Ne2000),
            (r#"{"net_device": {"type": "ne2k"}}"#, None, NetworkCard::Ne2000),
            (r#"{"net_device": {"type": "virtio"}}"#, None, NetworkCard::Virtio),
            (r#"{"net_device": {"type": "none"}}"#, None, NetworkCard::None),
            (
                r#"{"net_device": {"type": "none"}}"#,
                Some(NetworkCard::VirtioOffload),
                NetworkCard::VirtioOffload,
            ),
        ] {
            let net = NetWishes { card: flag, ..NetWishes::default() };
            let (config, warnings) = resolve(json, &BootOptions { net, ..BootOptions::default() }).unwrap();
            assert_eq!((config.network_card, warnings), (card, vec![]), "{json}");
        }
    }

    #[test]
    fn cmdline_over_the_limit_is_an_error() {
        let with = |n| BootOptions { cmdline: Some("x".repeat(n)), ..Default::default() };
        assert!(resolve("{}", &with(limits::MAX_CMDLINE)).is_ok());
        let error = resolve("{}", &with(limits::MAX_CMDLINE + 1)).unwrap_err();
        assert!(matches!(error, ConfigError::CmdlineTooLong { .. }));
    }

    #[test]
    fn sizes_are_read_with_and_without_unit() {
        for (text, size) in [
            ("536870912", 512 << 20),
            ("512M", 512 << 20),
            ("512 MiB", 512 << 20),
            ("512mb", 512 << 20),
            ("1g", 1 << 30),
            ("64k", 64 << 10),
            ("10B", 10),
        ] {
            assert_eq!(parse_size(text), Ok(size), "{text}");
        }
        for text in ["", "M", "-1", "1.5G", "5x", "5ib", "99999999999999999999", "99999999999G"] {
            assert!(parse_size(text).is_err(), "{text} was accepted");
        }
        assert_eq!(parse_memory("2G"), Ok(1 << 31));
        assert!(parse_memory("3G").is_err() && parse_memory("5").is_err());
    }

    #[test]
    fn seconds_are_read_with_fractions() {
        assert_eq!(parse_seconds("1.5"), Ok(Duration::from_millis(1500)));
        for text in ["", "-1", "nan", "inf", "1e30", "5s"] {
            assert!(parse_seconds(text).is_err(), "{text} was accepted");
        }
    }
}
