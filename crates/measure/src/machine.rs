//! The machine that measurements are taken on.

use crate::results::Machine;
use std::fs::read_to_string;

/// What this machine is. Where the operating system does not tell (outside Linux), the processor is named by its
/// architecture and the memory is 0.
pub fn detect() -> Machine {
    Machine {
        processor: processor().unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        memory: total_memory(),
        features: bantam_formats::kernels::Level::best().name().to_owned(),
    }
}

/// Bytes of memory that a new process can use without swapping, 0 if unknown: what is free or can be freed, within what
/// the process's control group allows.
pub fn available_memory() -> u64 {
    let available = meminfo("MemAvailable").unwrap_or(0);
    match (number("/sys/fs/cgroup/memory.max"), number("/sys/fs/cgroup/memory.current")) {
        (Some(limit), Some(used)) => {
            let stat = read_to_string("/sys/fs/cgroup/memory.stat").unwrap_or_default();
            available.min(limit.saturating_sub(taken(used, &stat)))
        }
        _ => available,
    }
}

/// Of the bytes that a control group uses those that are not to be had: the pages of files among them are given up for a process that needs
/// memory. `stat` is the group's memory.stat, lines of a name and bytes.
fn taken(used: u64, stat: &str) -> u64 {
    let bytes = |field: &str| {
        let line = stat.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(' '));
        line.and_then(|bytes| bytes.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    // The counters are not of one moment.
    used.saturating_sub(bytes("inactive_file")).saturating_sub(bytes("active_file"))
}

/// The most memory that this process has had resident, bytes, mapped files included; `None` outside Linux.
pub fn peak_memory() -> Option<u64> {
    kilobytes(&read_to_string("/proc/self/status").ok()?, "VmHWM")
}

fn processor() -> Option<String> {
    let info = read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Memory of the machine, or what the control group (a container) allows of it.
fn total_memory() -> u64 {
    let total = meminfo("MemTotal").unwrap_or(0);
    number("/sys/fs/cgroup/memory.max").map_or(total, |limit| total.min(limit))
}

fn meminfo(field: &str) -> Option<u64> {
    kilobytes(&read_to_string("/proc/meminfo").ok()?, field)
}

/// Bytes in a line `Field:   123 kB` of a file of proc.
fn kilobytes(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// A file that holds one number; `max` and whatever else is none.
fn number(path: &str) -> Option<u64> {
    read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_fields_of_proc() {
        let status = "VmPeak:\t  900 kB\nVmHWM:\t  1024 kB\nVmHWMX:\t 7 kB\nThreads:\t4\n";
        assert_eq!(kilobytes(status, "VmHWM"), Some(1 << 20));
        assert_eq!(kilobytes(status, "Threads"), None);
        assert_eq!(kilobytes(status, "VmSwap"), None);
    }

    #[test]
    fn pages_of_files_are_not_taken() {
        let stat =
            "anon 300\nfile 650\nshmem 50\ninactive_anon 90\nactive_anon 7\ninactive_file 400\nactive_file 200\n";
        assert_eq!(taken(1000, stat), 400);
        assert_eq!(taken(500, stat), 0);
        assert_eq!(taken(1000, ""), 1000);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_machine_has_memory_and_cores() {
        let machine = detect();
        assert!(machine.cores > 0 && machine.memory > available_memory() && available_memory() > 0, "{machine:?}");
        assert!(!machine.processor.is_empty() && !machine.features.is_empty(), "{machine:?}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn peak_memory_grows_with_what_is_touched() {
        let before = peak_memory().unwrap();
        let touched = vec![1u8; 64 << 20];
        assert!(std::hint::black_box(&touched).iter().map(|&b| u64::from(b)).sum::<u64>() > 0);
        assert!(peak_memory().unwrap() >= before.max(64 << 20));
    }
}
