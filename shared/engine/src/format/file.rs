//! Opening a model file: nothing but a plain file of the folder, under no other name, with the bytes it claims.

use std::fs::File;
use std::io::{ErrorKind, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::{Refusal, Rule};

/// Files from this length on must really hold most of it.
const SPARSE_FROM_BYTES: u64 = 16 << 20;

/// A file that allocates less than this share of its length is mostly holes. File systems that compress stay above it: weights
/// hardly shrink.
const SPARSE_SHARE: u64 = 8;

/// Opens `file`, a path within the folder `root`, for reading, and tells its length, which is at most `longest`.
///
/// No component of the path may be a link or lead upwards; the folder itself is trusted. The file must be a plain one without a
/// second name (a hard link could be a file of somebody else) and not mostly holes. A pipe does not hold this up.
pub fn open_model_file(root: &Path, file: &Path, longest: u64) -> Result<(File, u64), Refusal> {
    let names = file.components().map(|component| match component {
        Component::Normal(name) => Ok(name),
        _ => Err(refusal(Rule::Outside)),
    });
    let names: Vec<_> = names.collect::<Result<_, _>>()?;
    let Some((last, folders)) = names.split_last() else {
        return Err(refusal(Rule::Outside));
    };
    let mut folder = open(rustix::fs::CWD, root, OFlags::PATH | OFlags::DIRECTORY)?;
    for name in folders {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        folder = open(folder.as_fd(), Path::new(name), flags)?;
    }
    // Without waiting: the other end of a pipe might never come.
    let file = open(folder.as_fd(), Path::new(last), OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK)?;
    let facts = rustix::fs::fstat(&file).map_err(|error| refusal(of(error)))?;
    let length = check(&facts, longest)?;
    Ok((File::from(file), length))
}

/// As [`open_model_file`], for a path whose folder is already known to be good.
pub fn open_plain(path: &Path, longest: u64) -> Result<(File, u64), Refusal> {
    match (path.parent(), path.file_name()) {
        (Some(folder), Some(name)) if folder.as_os_str().is_empty() => {
            open_model_file(Path::new("."), Path::new(name), longest)
        }
        (Some(folder), Some(name)) => open_model_file(folder, Path::new(name), longest),
        _ => Err(refusal(Rule::Outside)),
    }
}

fn open(folder: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Refusal> {
    rustix::fs::openat(folder, path, flags | OFlags::CLOEXEC, Mode::empty()).map_err(|error| refusal(of(error)))
}

/// A folder that is a link answers "not a directory" when links are not followed, as a plain file does.
fn of(error: Errno) -> Rule {
    match error {
        Errno::LOOP | Errno::NOTDIR => Rule::Link,
        Errno::NXIO | Errno::ISDIR => Rule::Kind,
        error if error.kind() == ErrorKind::NotFound => Rule::Missing,
        _ => Rule::Unreadable,
    }
}

fn check(facts: &Stat, longest: u64) -> Result<u64, Refusal> {
    let length = u64::try_from(facts.st_size).unwrap_or(0);
    // The kernel counts in blocks of 512 bytes, whatever the file system's own are. Some file systems do not count at all.
    let allocated = u64::try_from(facts.st_blocks).unwrap_or(0).saturating_mul(512);
    let sparse = length >= SPARSE_FROM_BYTES && allocated > 0 && allocated < length / SPARSE_SHARE;
    match FileType::from_raw_mode(facts.st_mode) {
        FileType::RegularFile if facts.st_nlink > 1 => Err(refusal(Rule::HardLink)),
        FileType::RegularFile if length == 0 => Err(refusal(Rule::Empty)),
        FileType::RegularFile if length > longest => Err(refusal(Rule::Length)),
        FileType::RegularFile if sparse => Err(refusal(Rule::Sparse)),
        FileType::RegularFile => Ok(length),
        _ => Err(refusal(Rule::Kind)),
    }
}

fn refusal(rule: Rule) -> Refusal {
    Refusal::new(rule, "the model file", 0)
}

/// The length of a file that shall be read from its start, where it then stands: neither nothing nor beyond `longest`.
pub(super) fn length(source: &mut impl Seek, longest: u64) -> Result<u64, Refusal> {
    let unreadable = |_| refusal(Rule::Unreadable);
    let length = source.seek(SeekFrom::End(0)).map_err(unreadable)?;
    source.seek(SeekFrom::Start(0)).map_err(unreadable)?;
    match length {
        0 => Err(refusal(Rule::Empty)),
        length if length > longest => Err(Refusal::new(Rule::Length, "the file", longest)),
        length => Ok(length),
    }
}
