//! Three system calls that std does not have. The one place of this room with unsafe code.
#![expect(
    unsafe_code,
    reason = "prctl, kill and termios have no safe wrapper in std"
)]

use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};

/// Makes the process that `command` starts die with the thread that starts it, by SIGKILL.
///
/// So the caller's thread must live as long as the process is wanted: start processes on the main thread.
pub(crate) fn die_with_parent(command: &mut Command) {
    let parent = std::process::id();
    let in_child = move || {
        // SAFETY: prctl with integers only, and getppid; both may be called between fork and exec.
        let (result, now) = unsafe {
            (
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL),
                libc::getppid(),
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        // The parent ended between fork and prctl: no signal would ever come.
        if u32::try_from(now).ok() != Some(parent) {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(())
    };
    // SAFETY: the closure allocates nothing and takes no lock, so it may run in the child of a process
    // with threads; it reads one integer that it owns.
    unsafe { command.pre_exec(in_child) };
}

/// Asks the process to end: SIGTERM. `child` has not been waited for, so its id is still its own.
pub(crate) fn terminate(child: &Child) -> io::Result<()> {
    let pid = libc::pid_t::try_from(child.id()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: kill takes two integers and touches no memory of ours.
    match unsafe { libc::kill(pid, libc::SIGTERM) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The terminal on standard input gives single keys, unechoed, until this is dropped. Ctrl-C stays a signal.
pub(crate) struct SingleKeys {
    before: libc::termios,
}

impl SingleKeys {
    /// `None` where standard input is no terminal.
    pub(crate) fn of_stdin() -> Option<Self> {
        let stdin = io::stdin().as_raw_fd();
        // SAFETY: termios is plain integers, for which all zeros is a value.
        let mut before: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: `before` is a termios for the call to fill.
        if unsafe { libc::tcgetattr(stdin, &raw mut before) } != 0 {
            return None;
        }
        let mut keys = before;
        keys.c_lflag &= !(libc::ICANON | libc::ECHO);
        // SAFETY: `keys` is what tcgetattr gave, with two flags cleared.
        let result = unsafe { libc::tcsetattr(stdin, libc::TCSANOW, &raw const keys) };
        (result == 0).then_some(Self { before })
    }
}

impl Drop for SingleKeys {
    fn drop(&mut self) {
        // SAFETY: `before` is what tcgetattr gave. A terminal that is gone needs no restoring.
        let _ = unsafe {
            libc::tcsetattr(
                io::stdin().as_raw_fd(),
                libc::TCSANOW,
                &raw const self.before,
            )
        };
    }
}
