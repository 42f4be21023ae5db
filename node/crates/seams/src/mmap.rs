//! The one unsafe corner: system calls that std does not offer.
//!
//! Mappings are read-only and shared. A page that the disk cannot deliver (a bad sector, a file
//! that someone cut) arrives as SIGBUS in whichever thread touched it; [`install_fault_handler`]
//! makes the process end with the file and the offset on stderr. The handler finds them in
//! [`REGIONS`], a fixed array of atomics, because a signal handler may neither lock nor allocate.

use std::ffi::c_int;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// A read-only mapping of a file; unmapped on drop.
#[derive(Debug)]
pub(crate) struct MappedRegion {
    base: *const u8,
    len: usize,
    slot: Option<usize>,
}

// SAFETY: the region is read-only memory that stays mapped until drop; any thread may read it.
unsafe impl Send for MappedRegion {}
// SAFETY: as above; there is no interior mutability.
unsafe impl Sync for MappedRegion {}

impl MappedRegion {
    /// Maps the first `len` bytes of `file`; `path` is only for the fault message.
    pub(crate) fn new(file: &File, path: &Path, len: u64) -> io::Result<MappedRegion> {
        let len = usize::try_from(len).map_err(|_| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("cannot map {len} bytes"),
            )
        })?;
        if len == 0 {
            return Ok(MappedRegion {
                base: ptr::null(),
                len: 0,
                slot: None,
            });
        }
        // SAFETY: a fresh mapping at an address of the kernel's choice touches no memory of ours.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // Pages of a tree are visited in no order: read-ahead would only fill memory. Best effort.
        // SAFETY: the range is the mapping just made.
        unsafe { libc::madvise(base, len, libc::MADV_RANDOM) };
        let base = base.cast_const().cast::<u8>();
        Ok(MappedRegion {
            base,
            len,
            slot: register(base as usize, len, path),
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Bytes of the mapping; panics outside it, callers check first.
    pub(crate) fn bytes(&self, offset: usize, len: usize) -> &[u8] {
        let end = offset.checked_add(len);
        assert!(
            end.is_some_and(|end| end <= self.len),
            "slice {offset}+{len} outside the mapping of {} bytes",
            self.len
        );
        if len == 0 {
            return &[];
        }
        // SAFETY: the range was checked above and stays mapped as long as self lives. Nobody writes
        // to bytes that are handed out (contract of `Mapping`), so they do not change under us.
        unsafe { std::slice::from_raw_parts(self.base.add(offset), len) }
    }
}

impl Drop for MappedRegion {
    fn drop(&mut self) {
        if self.len == 0 {
            return;
        }
        if let Some(slot) = self.slot {
            unregister(slot);
        }
        // SAFETY: base and len are those of our own mapping, and no slice of it is alive.
        unsafe { libc::munmap(self.base.cast_mut().cast(), self.len) };
    }
}

/// Mappings that the fault handler can name. A member has one database, mapped anew when it grows,
/// and old mappings live as long as their readers; a mapping beyond this number works, but a fault
/// in it is reported without its file.
const REGIONS_MAX: usize = 256;

struct Region {
    /// 0: free; 1: being filled; else the address of the mapping.
    base: AtomicUsize,
    len: AtomicUsize,
    path: AtomicPtr<u8>,
    path_len: AtomicUsize,
}

static REGIONS: [Region; REGIONS_MAX] = [const {
    Region {
        base: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
        path: AtomicPtr::new(ptr::null_mut()),
        path_len: AtomicUsize::new(0),
    }
}; REGIONS_MAX];

fn register(base: usize, len: usize, path: &Path) -> Option<usize> {
    let slot = REGIONS.iter().position(|region| {
        region
            .base
            .compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    })?;
    let path: Box<[u8]> = path.as_os_str().as_bytes().into();
    let region = &REGIONS[slot];
    region.len.store(len, Ordering::Relaxed);
    region.path_len.store(path.len(), Ordering::Relaxed);
    region
        .path
        .store(Box::into_raw(path).cast(), Ordering::Relaxed);
    region.base.store(base, Ordering::Release);
    Some(slot)
}

fn unregister(slot: usize) {
    let region = &REGIONS[slot];
    region.base.store(1, Ordering::Release);
    let path = region.path.swap(ptr::null_mut(), Ordering::Relaxed);
    let path_len = region.path_len.load(Ordering::Relaxed);
    // SAFETY: pointer and length are those of the box that `register` gave up. The handler reads
    // them only for the region that holds the faulting address, and whoever faulted there keeps
    // that mapping alive, so this slot is not being read.
    drop(unsafe { Box::from_raw(ptr::slice_from_raw_parts_mut(path, path_len)) });
    region.base.store(0, Ordering::Release);
}

/// Makes a fault on a mapping end the process with a line on stderr that names file and offset.
/// The process still dies of SIGBUS, so that whoever waits for it sees the true reason. Call it
/// once at start; calling it again changes nothing.
pub fn install_fault_handler() -> io::Result<()> {
    // SAFETY: an all-zero sigaction is valid; it is filled below.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = fault_handler as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the handler has the signature that SA_SIGINFO asks for and calls only
    // async-signal-safe functions.
    let result = unsafe {
        libc::sigemptyset(&mut action.sa_mask);
        libc::sigaction(libc::SIGBUS, &action, ptr::null_mut())
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

extern "C" fn fault_handler(
    signal: c_int,
    info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    // SAFETY: the kernel passes a valid siginfo_t; si_addr is set for SIGBUS.
    let address = unsafe { (*info).si_addr() } as usize;
    write_stderr(b"fatal: cannot read a mapped page (disk error, or the file was cut)");
    for region in &REGIONS {
        let base = region.base.load(Ordering::Acquire);
        if base <= 1 || address < base || address - base >= region.len.load(Ordering::Relaxed) {
            continue;
        }
        let path = region.path.load(Ordering::Relaxed);
        let path_len = region.path_len.load(Ordering::Relaxed);
        write_stderr(b": file ");
        if !path.is_null() {
            // SAFETY: see `unregister`: the box lives as long as the mapping that just faulted.
            write_stderr(unsafe { std::slice::from_raw_parts(path, path_len) });
        }
        write_stderr(b", offset ");
        write_decimal(address - base);
        break;
    }
    write_stderr(b"\n");
    // The default action again: on return the same instruction faults once more and the process
    // ends by the signal, with a core dump where they are wanted.
    // SAFETY: signal() is async-signal-safe.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

fn write_stderr(bytes: &[u8]) {
    // SAFETY: write() is async-signal-safe; the range is valid. A failure has nowhere to go.
    unsafe { libc::write(2, bytes.as_ptr().cast(), bytes.len()) };
}

fn write_decimal(mut number: usize) {
    let mut digits = [0u8; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    write_stderr(&digits[start..]);
}

/// fallocate(2) without flags: reserves blocks, grows the file. `Unsupported` where the file
/// system cannot.
pub(crate) fn fallocate(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let (Ok(offset), Ok(len)) = (libc::off_t::try_from(offset), libc::off_t::try_from(len)) else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("cannot allocate {offset}+{len}"),
        ));
    };
    loop {
        // SAFETY: plain numbers and a descriptor that is open while `file` is borrowed.
        if unsafe { libc::fallocate(file.as_raw_fd(), 0, offset, len) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::EOPNOTSUPP | libc::ENOSYS) => return Err(io::ErrorKind::Unsupported.into()),
            _ => return Err(error),
        }
    }
}

/// An exclusive open-file-description lock over the whole file, without waiting; it goes when the
/// last descriptor of this open file is closed. False if another has it.
pub(crate) fn try_lock_description(file: &File) -> io::Result<bool> {
    // SAFETY: an all-zero flock is valid: it covers the whole file, and pid must be 0 here.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    // SAFETY: the pointer is to a live flock, the descriptor is open while `file` is borrowed.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) } == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Ok(false),
        _ => Err(error),
    }
}

/// Fills `buffer` (at most 256 bytes) from the kernel's generator.
pub(crate) fn random_bytes(buffer: &mut [u8]) {
    assert!(
        buffer.len() <= 256,
        "getrandom fills up to 256 bytes at once, not {}",
        buffer.len()
    );
    loop {
        // SAFETY: pointer and length are those of the buffer.
        let n = unsafe { libc::getrandom(buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        if n == buffer.len() as isize {
            return;
        }
        let error = io::Error::last_os_error();
        assert!(
            n >= 0 || error.kind() == io::ErrorKind::Interrupted,
            "getrandom cannot fail once the kernel is up: {error}"
        );
    }
}
