//! Files of the host through a mount.

use super::{Course, between, rate};
use crate::bars::noise;
use anyhow::{Context, Result, ensure};
use std::fs::{self, File, FileTimes, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

/// Bytes of a large file that are made, or compared, at once.
const PIECE: usize = 4 << 20;

/// What programs expect of files. Prints what is not so.
const LOCAL: &str = "mkdir /mnt/local; cd /mnt/local
no() { echo \"$@\"; }
echo one >f; exec 3<f; rm f; read x <&3; exec 3<&-; [ \"$x\" = one ] || no 'read after unlink'
[ \"$(ls -A)\" = '' ] || no \"left: $(ls -A)\"
echo a >a; echo b >b; exec 3<b; mv a b; read x <&3; [ \"$x$(cat b)\" = ba ] || no 'rename over'
for w in 1 2 3; do (n=0; while [ $n -lt 100 ]; do echo $w $n >>log; n=$((n+1)); done) & done; wait
[ $(sort -u log | wc -l) = 300 ] || no 'append'
truncate -s 5G big; printf end | dd of=big bs=1 seek=5368709117 conv=notrunc 2>/dev/null
[ \"$(stat -c %s big) $(tail -c 3 big)\" = '5368709120 end' ] || no 'large file'
mkdir d; mv d e; rmdir e; ln -s nowhere s; [ \"$(readlink s)\" = nowhere ] || no 'links'
ln b c; [ $(stat -c %h b) = 2 ] || no 'hard links'; chmod 640 c; [ $(stat -c %a b) = 640 ] || no 'modes'
touch -d @1000000000 c; [ $(stat -c %Y b) = 1000000000 ] || no 'times'
mkfifo p; (echo through >p) & [ \"$(cat p)\" = through ] || no 'pipes'
n=$(printf '%255s' | tr ' ' n); : >$n; [ -e $n ] || no 'long names'; rm -r /mnt/local";

pub fn local(course: &Course) -> Result<String> {
    let wrong = course.script(LOCAL)?;
    ensure!(wrong.is_empty(), "{}", wrong.trim().replace('\n', "; "));
    ensure!(!course.files().join("local").exists(), "it is still there");
    Ok("open files, renames, appends, 5 GB, links, modes, times, pipes, names".to_owned())
}

pub fn directory(course: &Course) -> Result<String> {
    let (count, many) = (course.size.entries, course.files().join("many"));
    fs::create_dir(&many)?;
    for number in 0..count {
        File::create(many.join(format!("entry-{number}")))?;
    }
    let text = course.script(
        "up() { read u x </proc/uptime; echo $u; }; a=$(up); n=$(find /mnt/many | grep -c entry-); b=$(up); \
         rm -r /mnt/many; echo $n $a $b $b $(up)",
    )?;
    let words: Vec<&str> = text.split_whitespace().collect();
    let [found, a, b, _, c] = words[..] else { anyhow::bail!("{text:?}") };
    ensure!(found == count.to_string(), "{found} of {count} entries are seen");
    ensure!(!many.exists(), "not all of them can be removed");
    let (list, remove) = (between(&format!("{a} {b}"))?, between(&format!("{b} {c}"))?);
    Ok(format!("{count} entries listed in {list:.2} s, removed in {remove:.1} s"))
}

pub fn large(course: &Course) -> Result<String> {
    let (from, to) = (course.files().join("large"), course.files().join("copy"));
    let pieces = course.size.file / PIECE as u64;
    let piece = noise(1, PIECE);
    let mut file = File::create(&from)?;
    for number in 0..pieces {
        // No two pieces are equal.
        file.write_all(&number.to_le_bytes())?;
        file.write_all(&piece[8..])?;
    }
    drop(file);
    let times = course
        .script("read a x </proc/uptime; cp /mnt/large /mnt/copy; read b x </proc/uptime; echo $a $b")?;
    ensure!(same(&from, &to)?, "the copy differs");
    let took = between(&times)?;
    fs::remove_file(from)?;
    fs::remove_file(to)?;
    Ok(format!("{} copied, intact", rate(pieces * PIECE as u64, took)))
}

fn same(one: &Path, two: &Path) -> Result<bool> {
    if fs::metadata(one)?.len() != fs::metadata(two)?.len() {
        return Ok(false);
    }
    let (mut one, mut two) = (File::open(one)?, File::open(two)?);
    let (mut a, mut b) = (vec![0; PIECE], vec![0; PIECE]);
    loop {
        let count = one.read(&mut a)?;
        if count == 0 {
            return Ok(true);
        }
        two.read_exact(&mut b[..count])?;
        if a[..count] != b[..count] {
            return Ok(false);
        }
    }
}

/// Makes the tree, of files in a hundred directories with all that `tar` keeps, unless it is there. Names of its
/// top are `tree`.
pub fn make_tree(course: &Course) -> Result<()> {
    let top = course.files().join("tree");
    if top.is_dir() {
        return Ok(());
    }
    let content = noise(2, 16 << 10);
    for number in 0..course.size.files {
        let directory = top.join(format!("directory {}", number % 100));
        fs::create_dir_all(&directory)?;
        let path = directory.join(format!("file-{number}"));
        match number % 50 {
            17 => symlink(format!("file-{}", number.saturating_sub(100)), &path)?,
            18 if number >= 100 => fs::hard_link(directory.join(format!("file-{}", number - 100)), &path)?,
            _ => {
                let length = number * 7919 % 9001;
                fs::write(&path, &content[number % 5000..][..length])?;
                fs::set_permissions(&path, Permissions::from_mode([0o644, 0o755, 0o600, 0o444][number % 4]))?;
                let time = UNIX_EPOCH + Duration::from_secs(1_000_000_000 + number as u64 * 997);
                // Without the right to write there is none to set the time, but for the owner's open file.
                File::open(&path)?.set_times(FileTimes::new().set_modified(time))?;
            }
        }
    }
    Ok(())
}

/// A line for each entry: name, kind and permissions, links, time, contents.
fn listing(directory: &Path, top: &Path, lines: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        let meta = fs::symlink_metadata(&path)?;
        let name = path.strip_prefix(top)?.display();
        let content = if meta.is_symlink() {
            format!("-> {}", fs::read_link(&path)?.display())
        } else if meta.is_dir() {
            listing(&path, top, lines)?;
            String::new()
        } else {
            let sum = fs::read(&path)?
                .iter()
                .fold(0u64, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3));
            format!("{} {} {} {sum:x}", meta.nlink(), meta.mtime(), meta.len())
        };
        lines.push(format!("{name} {:o} {content}", if meta.is_symlink() { 0 } else { meta.mode() }));
    }
    Ok(())
}

fn listed(top: &Path) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    listing(top, top, &mut lines)?;
    lines.sort();
    Ok(lines)
}

pub fn tree(course: &Course) -> Result<String> {
    make_tree(course)?;
    let times = course.script(
        "set -e; cd /mnt; up() { read u x </proc/uptime; echo $u; }; a=$(up); tar cf out.tar tree; b=$(up); \
         mkdir again; tar xpf out.tar -C again; c=$(up); echo $a $b $b $c",
    )?;
    let words: Vec<&str> = times.split_whitespace().collect();
    let [a, b, _, c] = words[..] else { anyhow::bail!("{times:?}") };
    let (out, back) = (between(&format!("{a} {b}"))?, between(&format!("{b} {c}"))?);
    let (expected, found) =
        (listed(&course.files().join("tree"))?, listed(&course.files().join("again/tree"))?);
    let different = expected.iter().zip(&found).find(|(one, two)| one != two);
    ensure!(expected == found, "{} and {} entries: {different:?}", expected.len(), found.len());
    fs::remove_dir_all(course.files().join("again"))?;
    fs::remove_file(course.files().join("out.tar"))?;
    Ok(format!("{} entries equal; out {out:.1} s, in {back:.1} s", expected.len()))
}
