//! Snapshots as files: where they are, how they are read, and how they are written without ever losing
//! one.
//!
//! | file | what |
//! | --- | --- |
//! | `locate` | which files an image's snapshots are in; `IMAGE:name` |
//! | `source`, `zstd_source` | reading: files, parts, archive members, compressed or not |
//! | `output` | writing: files with holes, zstd frames |
//! | `atomic` | replacing a file |
//! | `archive` | replacing members of a `.tgz` image |
//! | `save` | saving and copying into an image |
//! | `describe`, `guest_files` | what is in a snapshot, and how two differ |
//!
//! The format itself is `emu_core::snapshot`'s business.

pub mod archive;
pub mod atomic;
pub mod describe;
pub mod guest_files;
pub mod locate;
pub mod output;
pub mod save;
pub mod source;
mod zstd_source;

use std::io;
use std::path::PathBuf;

use emu_core::snapshot::SnapshotError;

use crate::image::ImageError;
use crate::image::kernel_source::UrlError;
use crate::limits;
use locate::Name;

/// Why a snapshot cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotFileError {
    /// The image it belongs to.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// `image.json` names a snapshot that is not in the image.
    #[error("Cannot use the image's initial_state: {}: {reason}", image.display())]
    Url {
        /// The image.
        image: PathBuf,
        /// What is wrong with its URL.
        reason: UrlError,
    },
    /// A part of a split snapshot is missing.
    #[error("Cannot read the snapshot: {}: part {number} of {count} is missing", file.display())]
    Part {
        /// The part.
        file: PathBuf,
        /// Its number, from 1.
        number: u64,
        /// How many there should be.
        count: u64,
    },
    /// `initial_state_parts` is absurd.
    #[error("Cannot read the snapshot: {}: {count} parts; at most {} are accepted", path.display(),
        limits::MAX_SNAPSHOT_PARTS)]
    TooManyParts {
        /// The image.
        path: PathBuf,
        /// How many there should be.
        count: u64,
    },
    /// The host does not give it.
    #[error("Cannot open the snapshot: {}", path.display())]
    Open {
        /// Its file.
        path: PathBuf,
        /// The host's reason.
        source: io::Error,
    },
    /// It is none, or damaged.
    #[error("Cannot use the snapshot: {}", path.display())]
    Read {
        /// Its file.
        path: PathBuf,
        /// It is compressed.
        compressed: bool,
        /// What is wrong.
        source: SnapshotError,
    },
    /// There is none of that name.
    #[error("Cannot find the snapshot: {}:{name}", image.display())]
    Missing {
        /// The image.
        image: PathBuf,
        /// The name.
        name: Name,
        /// Those there are.
        others: Vec<Name>,
    },
    /// The image has none.
    #[error("Cannot find a snapshot: {} has none", image.display())]
    None {
        /// The image.
        image: PathBuf,
    },
    /// The name is not possible.
    #[error("Invalid name {name:?} for a snapshot: {reason}")]
    BadName {
        /// As written.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Archives have no named snapshots.
    #[error("Cannot keep named snapshots in an archive: {}", image.display())]
    Archive {
        /// The image.
        image: PathBuf,
    },
    /// It cannot be written.
    #[error("Cannot save the snapshot: {}: {}", path.display(), reason_of(source))]
    Save {
        /// Its file.
        path: PathBuf,
        /// The host's reason.
        source: io::Error,
    },
}

/// What happened while writing, and what that means for what was there before.
fn reason_of(error: &io::Error) -> String {
    format!("{error}; what was there before is unchanged")
}

impl SnapshotFileError {
    /// What the user can try.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Image(error) => error.hint(),
            Self::Url { reason: UrlError::Remote(_), .. } => {
                Some("download it into the image as initial.state, or start with --cold".to_owned())
            }
            Self::Url { .. } | Self::Part { .. } | Self::TooManyParts { .. } => {
                Some("--cold starts the image without its snapshot".to_owned())
            }
            Self::Read { compressed: true, source: SnapshotError::Truncated { .. }, .. } => Some(
                "the compressed file was never finished (old versions of env86 wrote such files with \
                 -save); start with --cold, and --save makes a new one"
                    .to_owned(),
            ),
            Self::Read { source: SnapshotError::Truncated { .. } | SnapshotError::Length { .. }, .. } => {
                Some("it was not copied completely; start with --cold, and --save makes a new one".to_owned())
            }
            Self::Read { .. } => Some("--cold starts the image without its snapshot".to_owned()),
            Self::Missing { others, .. } if !others.is_empty() => {
                let names: Vec<&str> = others.iter().map(Name::as_str).collect();
                Some(format!("there are: {}", names.join(", ")))
            }
            Self::Missing { .. } => Some("'env86 snapshot create IMAGE:NAME' makes one".to_owned()),
            Self::None { .. } => Some("'env86 snapshot create IMAGE' makes one".to_owned()),
            Self::Archive { .. } => {
                Some("unpack it: mkdir DIR && tar -C DIR -xzf IMAGE, and use DIR as the image".to_owned())
            }
            Self::Save { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Some("make space; the temporary file is gone again".to_owned())
            }
            _ => None,
        }
    }
}
