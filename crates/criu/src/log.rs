//! CRIU's log: finding the lines that say why.

/// As many lines as an error message bears.
const MOST: usize = 3;

/// The lines of a CRIU log that say why it failed, without time stamps and source positions, earliest first: what
/// comes later ("Dumping FAILED.") mostly follows from it.
pub(crate) fn decisive(log: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for line in log.lines() {
        let Some(at) = line.find("Error (") else { continue };
        let Some((_, text)) = line[at..].split_once("): ") else { continue };
        let text = text.trim().to_owned();
        if !text.is_empty() && !is_noise(&text) && !lines.contains(&text) {
            lines.push(text);
        }
        if lines.len() == MOST {
            break;
        }
    }
    lines
}

/// Errors that come with every failure, or that CRIU itself survives.
fn is_noise(text: &str) -> bool {
    ["Dumping FAILED", "Restoring FAILED", "One of more action scripts failed", "RPC client reported script error"]
        .iter()
        .chain(&["Can't setup RLIMIT_NOFILE", "Unable to create tun", "Killing processes because of failure"])
        .any(|noise| text.contains(noise))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_found_and_its_consequences_are_not_repeated() {
        let log = "\
(00.001) Warn  (criu/kerndat.c:1): something
(00.012345) Error (criu/util.c:640): Can't setup RLIMIT_NOFILE for self: Operation not permitted
(00.012345) Error (criu/sk-inet.c:129): inet: Unsupported proto 1 for socket 2f
(00.012345)  17: Error (criu/files.c:7): Dump files (pid: 17) failed with -1
(00.012345) Error (criu/files.c:7): Dump files (pid: 17) failed with -1
(00.013) Error (criu/cr-dump.c:2000): Dumping FAILED.
";
        assert_eq!(decisive(log), ["inet: Unsupported proto 1 for socket 2f", "Dump files (pid: 17) failed with -1"]);
    }

    #[test]
    fn a_log_without_errors_has_no_decisive_line() {
        assert!(decisive("(00.0) Warn  (criu/x.c:1): hm\nnoise").is_empty());
    }
}
