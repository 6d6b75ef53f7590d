//! Memory that two processes map: the one file with `unsafe`.
//!
//! The other process may write any byte at any time. So nobody ever holds a reference to these bytes, but for
//! atomics: they are copied in and out through raw pointers. The compiler cannot know what another process
//! writes; a copy that races with it brings some mixture of old and new bytes, which its reader takes as
//! hostile anyway. The monitors of virtual machines read their guests' memory in the same way (`vm-memory`).
#![expect(unsafe_code, reason = "maps memory, and reads and writes it through pointers")]

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{FallocateFlags, FsWord, MemfdFlags, SealFlags, StatFs};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};

/// With these nobody can change the size any more: bytes that are mapped and gone raise SIGBUS. The last one
/// holds the set of seals itself.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);
/// The answer of `statfs` for a memfd. One of huge pages, which may be missing when they are touched, says
/// something else.
const TMPFS_MAGIC: FsWord = 0x0102_1994;

/// Invariant: `start` is mapped for `bytes` bytes for reading and writing, and `owned` for a word, in the
/// process that made it, until it is dropped. A forked child has the value and nothing behind `start`; there
/// the word is zero.
#[derive(Debug)]
pub(crate) struct Memory {
    start: NonNull<u8>,
    bytes: usize,
    /// One in this process. The kernel clears the page in a forked child.
    owned: NonNull<AtomicU32>,
}

// SAFETY: the mappings belong to the process and not to a thread, and are unmapped by the owner alone.
unsafe impl Send for Memory {}
// SAFETY: through `&self` they are touched by atomics and by copies through raw pointers, which the other process
// may race with all the same. Threads of this one do not copy the same bytes at once: each ring has one
// reader and one writer, which need `&mut`.
unsafe impl Sync for Memory {}

impl Memory {
    /// Makes memory of zeros. Returns the descriptor for the other process as well.
    pub(crate) fn create(bytes: usize) -> io::Result<(Self, OwnedFd)> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let name = "ipc-framework-rings";
        let descriptor = match rustix::fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
            // Linux before 6.3 does not know it.
            Err(Errno::INVAL) => rustix::fs::memfd_create(name, flags),
            created => created,
        }?;
        rustix::fs::ftruncate(&descriptor, bytes as u64)?;
        // Memory that is not there is an error here, and would be a signal when it is touched.
        rustix::fs::fallocate(&descriptor, FallocateFlags::empty(), 0, bytes as u64)?;
        let memory = Self::map(&descriptor, bytes)?;
        rustix::fs::fcntl_add_seals(&descriptor, SEALS)?;
        Ok((memory, descriptor))
    }

    /// Maps memory that another process has made. Refuses what it could take away again.
    pub(crate) fn open(descriptor: &OwnedFd, bytes: usize) -> io::Result<Self> {
        let refused = |text: &str| Err(io::Error::new(ErrorKind::InvalidData, text));
        let StatFs { f_type, .. } = rustix::fs::fstatfs(descriptor)?;
        if f_type != TMPFS_MAGIC {
            return refused("the server sent something else than memory");
        }
        if !rustix::fs::fcntl_get_seals(descriptor)?.contains(SEALS) {
            return refused("the server sent memory whose size can still be changed");
        }
        if u64::try_from(rustix::fs::fstat(descriptor)?.st_size) != Ok(bytes as u64) {
            return refused("the server sent memory of another size than it said");
        }
        Self::map(descriptor, bytes)
    }

    fn map(descriptor: &impl AsFd, bytes: usize) -> io::Result<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let word_bytes = size_of::<AtomicU32>();
        // SAFETY: the kernel chooses the place, so no memory in use is replaced.
        let owned = unsafe {
            rustix::mm::mmap_anonymous(ptr::null_mut(), word_bytes, access, MapFlags::PRIVATE)
        }?;
        // SAFETY: as above.
        let start = unsafe {
            rustix::mm::mmap(ptr::null_mut(), bytes, access, MapFlags::SHARED, descriptor, 0)
        };
        let start = match start {
            Ok(start) => start,
            Err(error) => {
                // SAFETY: it was mapped above, and nobody has seen it.
                unsafe { rustix::mm::munmap(owned, word_bytes) }?;
                return Err(error.into());
            }
        };
        let (Some(start), Some(owned)) = (NonNull::new(start.cast()), NonNull::new(owned.cast()))
        else {
            return Err(ErrorKind::OutOfMemory.into());
        };
        let memory = Self { start, bytes, owned };
        let advise = |place: NonNull<u8>, bytes, advice| {
            // SAFETY: both are mappings of this value alone, and what is advised changes no byte of this process.
            unsafe { rustix::mm::madvise(place.as_ptr().cast(), bytes, advice) }
        };
        // A child would be a second writer of the same ring.
        advise(start, bytes, Advice::LinuxDontFork)?;
        advise(owned.cast(), word_bytes, Advice::LinuxWipeOnFork)?;
        // The words of others are not for a core dump.
        advise(start, bytes, Advice::LinuxDontDump)?;
        memory.owned().store(1, Ordering::Relaxed);
        Ok(memory)
    }

    fn owned(&self) -> &AtomicU32 {
        // SAFETY: it is mapped until `self` is dropped, in a child too, begins a page, and is an atomic ever since.
        unsafe { self.owned.as_ref() }
    }

    /// Returns whether this process has the memory: not if it is a fork of the one that has.
    #[inline]
    pub(crate) fn is_here(&self) -> bool {
        self.owned().load(Ordering::Relaxed) != 0
    }

    /// Returns the word at a multiple of four. May be called only where the memory [is](Self::is_here).
    #[inline]
    pub(crate) fn word(&self, at: usize) -> &AtomicU32 {
        self.check(at, size_of::<AtomicU32>());
        assert!(at.is_multiple_of(align_of::<AtomicU32>()), "a word has its alignment");
        // SAFETY: it lies within the mapping, which begins a page, so it is aligned; this process touches it as an
        // atomic alone. `self` keeps it mapped.
        unsafe { AtomicU32::from_ptr(self.start.as_ptr().add(at).cast()) }
    }

    /// Copies bytes into the memory, where it [is](Self::is_here).
    #[inline]
    pub(crate) fn copy_in(&self, at: usize, from: &[u8]) {
        self.check(at, from.len());
        // SAFETY: the bytes lie within the mapping, which no slice of this process overlaps.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), self.start.as_ptr().add(at), from.len()) }
    }

    /// Copies bytes out of the memory, where it [is](Self::is_here).
    #[inline]
    pub(crate) fn copy_out(&self, at: usize, into: &mut [u8]) {
        self.check(at, into.len());
        // SAFETY: as above; any byte is a valid `u8`.
        unsafe {
            ptr::copy_nonoverlapping(self.start.as_ptr().add(at), into.as_mut_ptr(), into.len());
        }
    }

    #[inline]
    fn check(&self, at: usize, bytes: usize) {
        assert!(
            at <= self.bytes && bytes <= self.bytes - at,
            "{at} and {bytes} bytes are in the memory"
        );
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.is_here() {
            // SAFETY: it was mapped by `map`, and every borrow of it ends with `self`. In a child the place may be
            // another mapping by now, so there it stays.
            let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.bytes) };
        }
        // SAFETY: as above; a child has it, too.
        let _ = unsafe { rustix::mm::munmap(self.owned.as_ptr().cast(), size_of::<AtomicU32>()) };
    }
}
