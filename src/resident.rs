//! How much of the program itself stays in memory.
//!
//! A start runs through most of gatepost's code once: the command line, the configuration, hundreds of certificates,
//! the store's tables. The system keeps each page of it resident, and some beside it, until memory is short. A service
//! that nobody watches for years gives them back when it is ready, and its constants with them; what it needs then comes
//! from the file's cache, at the price of a minor fault for each 64 KiB.
//!
//! Invariant: nothing is given back that was ever written to, or can be.

use std::ops::Range;

/// Where the program's code and constants are in memory.
#[derive(Debug, Default)]
pub struct Code(Vec<Range<usize>>);

impl Code {
    /// Looks it up. A confined process can't any more; elsewhere than on Linux there is nothing to look at.
    pub fn find() -> Self {
        let maps = match cfg!(target_os = "linux") {
            true => std::fs::read_to_string("/proc/self/smaps").unwrap_or_default(),
            false => String::new(),
        };
        let program = std::env::current_exe().unwrap_or_default();
        Self(program.to_str().map(|program| unwritten(&maps, program)).unwrap_or_default())
    }

    /// Lets the system have its pages.
    #[cfg(target_os = "linux")]
    #[allow(unsafe_code, reason = "the one call for it; see below")]
    pub fn give_back(&self) {
        use rustix::mm::{Advice, madvise};
        for Range { start, end } in &self.0 {
            let address = std::ptr::with_exposed_provenance_mut(*start);
            // SAFETY: MADV_DONTNEED drops what was written to a private mapping. This one is of the program's own file,
            // was not written to by the dynamic linker, and is not writable since: whatever touches it next, be it in
            // the middle of this call, reads the same octets from the file again (madvise(2)).
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

/// The ranges of `program` in proc_pid_smaps(5) to which nobody can write, and of which no page is other than in the file:
/// `5581d3e00000-5581d46a0000 r-xp 00300000 fe:00 1234  /usr/bin/gatepost`, and further down `Anonymous: 0 kB` and
/// `Swap: 0 kB`. What was relocated is not among them, be it in memory or swapped out.
fn unwritten(smaps: &str, program: &str) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let mut current = None;
    for line in smaps.lines() {
        let mut fields = line.split_ascii_whitespace();
        match (fields.next(), fields.next()) {
            (Some("Anonymous:"), written) => current = current.filter(|_| written == Some("0")),
            (Some("Swap:"), written) => {
                ranges.extend(current.take().filter(|_| written == Some("0")));
            }
            _ if line.ends_with(program) => current = read_only(line),
            _ => {}
        }
    }
    ranges
}

fn read_only(line: &str) -> Option<Range<usize>> {
    let mut fields = line.split_ascii_whitespace();
    let range = fields.next()?;
    fields.next().filter(|mode| matches!(*mode, "r-xp" | "r--p"))?;
    let (start, end) = range.split_once('-')?;
    Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_to_is_not_meant() {
        let found_of = |mode, name, written, swapped| {
            let smaps = format!(
                "1000-3000 {mode} 00300000 fe:00 1234  {name}\nSize: 8 kB\nAnonymous: {written} kB\n\
                 Swap: {swapped} kB\nSwapPss: 0 kB\nVmFlags: rd mr\n\
                 5000-6000 rw-p 00000000 00:00 0\nAnonymous: 0 kB\nSwap: 0 kB\n"
            );
            unwritten(&smaps, "/usr/bin/gatepost")
        };
        let found = |mode, name, written| found_of(mode, name, written, 0);
        for mode in ["r-xp", "r--p"] {
            let own = Range { start: 0x1000, end: 0x3000 };
            assert_eq!(found(mode, "/usr/bin/gatepost", 0), vec![own], "{mode}");
            assert!(found(mode, "/usr/bin/gatepost", 4).is_empty(), "{mode}");
            assert!(found_of(mode, "/usr/bin/gatepost", 0, 4).is_empty(), "{mode}");
            assert!(found(mode, "/usr/lib/libc.so.6", 0).is_empty(), "{mode}");
        }
        for mode in ["rw-p", "rwxp", "r-xs", ""] {
            assert!(found(mode, "/usr/bin/gatepost", 0).is_empty(), "{mode}");
        }
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
