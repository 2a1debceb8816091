//! How much of the program itself stays in memory.
//!
//! A start runs through most of gatepost's code once: the command line, the configuration, hundreds of certificates,
//! the store's tables. The system keeps each page of it resident, and some beside it, until memory is short. A service
//! that nobody watches for years gives them back when it is ready; what it needs then comes from the file's cache, at
//! the price of a minor fault for each 64 KiB.
//!
//! Invariant: nothing but code is given back, which is never written to.

use std::ops::Range;

/// Where the program's code is in memory.
#[derive(Debug, Default)]
pub struct Code(Vec<Range<usize>>);

impl Code {
    /// Looks it up. A confined process can't any more; elsewhere than on Linux there is nothing to look at.
    pub fn find() -> Self {
        let maps = match cfg!(target_os = "linux") {
            true => std::fs::read_to_string("/proc/self/maps").unwrap_or_default(),
            false => String::new(),
        };
        let program = std::env::current_exe().unwrap_or_default();
        let of_program = |line: &&str| program.to_str().is_some_and(|path| line.ends_with(path));
        Self(maps.lines().filter(of_program).filter_map(code_of).collect())
    }

    /// Lets the system have its pages.
    #[cfg(target_os = "linux")]
    #[allow(unsafe_code, reason = "the one call for it; see below")]
    pub fn give_back(&self) {
        use rustix::mm::{Advice, madvise};
        for Range { start, end } in &self.0 {
            let address = std::ptr::with_exposed_provenance_mut(*start);
            // SAFETY: MADV_DONTNEED drops what was written to a private mapping. This one is the program's own, mapped
            // executable and not writable from its beginning to its end: whatever touches it next, be it in the middle
            // of this call, reads the same octets from the file again (madvise(2)).
            let given = unsafe { madvise(address, end - start, Advice::LinuxDontNeed) };
            if let Err(error) = given {
                tracing::debug!(%error, "code stays resident");
            }
        }
    }

    /// Other systems are not asked.
    #[cfg(not(target_os = "linux"))]
    pub fn give_back(&self) {}
}

/// The range of a line of proc_pid_maps(5), if it is code that nobody can write to:
/// `5581d3e00000-5581d46a0000 r-xp 00300000 fe:00 1234  /usr/bin/gatepost`.
fn code_of(line: &str) -> Option<Range<usize>> {
    let mut fields = line.split_ascii_whitespace();
    let range = fields.next()?;
    fields.next().filter(|mode| *mode == "r-xp")?;
    let (start, end) = range.split_once('-')?;
    Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_alone_is_meant() {
        let line = |mode| format!("1000-3000 {mode} 00300000 fe:00 1234  /usr/bin/gatepost");
        assert_eq!(code_of(&line("r-xp")), Some(0x1000..0x3000));
        for mode in ["r--p", "rw-p", "rwxp", "r-xs"] {
            assert_eq!(code_of(&line(mode)), None, "{mode}");
        }
        assert_eq!(code_of(""), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_program_goes_on_without_it() {
        /// KiB of the program's code that are resident (proc_pid_smaps(5)).
        fn resident(code: &Code) -> u64 {
            let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
            let mut lines = smaps.lines();
            let start = code.0.first().map(|range| format!("{:x}-", range.start)).unwrap();
            lines.find(|line| line.starts_with(&start)).unwrap();
            let line = lines.find_map(|line| line.strip_prefix("Rss:")).unwrap();
            line.trim().trim_end_matches(" kB").parse().unwrap()
        }
        let code = Code::find();
        let before = resident(&code);
        code.give_back();
        let after = resident(&code);
        assert!(after < before, "{before} KiB, {after} KiB");
    }
}
