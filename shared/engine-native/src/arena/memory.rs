//! A file without a name that lives in memory, and its place in this process.
#![expect(unsafe_code, reason = "memory that two processes map has to be reached through pointers")]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use memmap2::{Advice, MmapOptions, MmapRaw};
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};

use super::slots::HUGE_PAGE;

/// Mapped memory. Both processes see the same bytes.
#[derive(Debug)]
pub(crate) struct Memory {
    file: File,
    map: MmapRaw,
}

impl Memory {
    /// Sparse memory of this length, which nobody can cut off under another's feet.
    pub(super) fn create(length: u64) -> io::Result<Self> {
        let file = rustix::fs::memfd_create("weft-arena", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&file, length)?;
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Self::open(file)
    }

    /// Maps what the other process has made.
    pub(crate) fn open(file: OwnedFd) -> io::Result<Self> {
        let file = File::from(file);
        let map = MmapOptions::new().map_raw(&file)?;
        Ok(Self { file, map })
    }

    /// The file, to be handed to the other process.
    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Asks for huge pages from `start` on. Kernels that have none say no, and nothing is lost.
    pub(super) fn prefer_huge(&self, start: u64) {
        let rest = usize::try_from(start).ok().and_then(|start| Some((start, self.map.len().checked_sub(start)?)));
        if let Some((start, rest)) = rest.filter(|(_, rest)| *rest as u64 >= HUGE_PAGE) {
            let _ = self.map.advise_range(Advice::HugePage, start, rest);
        }
    }

    /// Gives pages back to the system; they read as zeros afterwards. A kernel that refuses keeps them: they are used again later.
    pub(super) fn release(&self, range: &Range<u64>) {
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let _ = rustix::fs::fallocate(&self.file, mode, range.start, range.end - range.start);
    }

    /// The address of a part, if the memory has it.
    pub(crate) fn part(&self, offset: u64, length: u64) -> Option<*mut u8> {
        let (start, length) = (usize::try_from(offset).ok()?, usize::try_from(length).ok()?);
        let end = start.checked_add(length)?;
        // SAFETY: the offset is within the mapping, or at its end.
        (end <= self.map.len()).then(|| unsafe { self.map.as_mut_ptr().add(start) })
    }

    /// A part as bytes, if the memory has it.
    ///
    /// # Safety
    /// Nobody in this process may write there while the slice lives. The other process is told not to. Should it do so all the same,
    /// bytes change under a reader; whoever reads them must not rely on reading the same twice.
    pub(crate) unsafe fn bytes(&self, offset: u64, length: u64) -> Option<&[u8]> {
        let pointer = self.part(offset, length)?;
        // SAFETY: the part is mapped for as long as `self` lives, and the caller answers for writers.
        Some(unsafe { std::slice::from_raw_parts(pointer, usize::try_from(length).ok()?) })
    }

    /// A part as bytes to be written, if the memory has it.
    ///
    /// # Safety
    /// Nobody else may read or write there while the slice lives.
    #[expect(
        clippy::mut_from_ref,
        reason = "the mapping is shared by nature; exclusive use of a part is the caller's promise"
    )]
    pub(crate) unsafe fn bytes_mut(&self, offset: u64, length: u64) -> Option<&mut [u8]> {
        let pointer = self.part(offset, length)?;
        // SAFETY: the part is mapped for as long as `self` lives, and the caller answers for its exclusive use.
        Some(unsafe { std::slice::from_raw_parts_mut(pointer, usize::try_from(length).ok()?) })
    }
}
