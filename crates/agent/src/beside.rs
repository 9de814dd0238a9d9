//! Memory that goes beside the images, in the freeze (stop-copy).
//!
//! In the images a page is written to tmpfs by CRIU, read and sent, received and written to tmpfs, and read again by the
//! restore, one after the other. Here it is read out of the frozen process once, and sent into the target's store while it is
//! read; the processes are filled from there when they run already. What has to go over is what CRIU's images say.

use std::fs;
use std::path::Path;

use godwit_criu::Member;
use godwit_memory::{PageRange, PageReader};
use godwit_migration::PartError;
use godwit_model::Bytes;
use godwit_pages::Pagemap;
use godwit_transport::Sender;

use crate::precopy::{Stopped, send};
use crate::unit::{Units, wire_pid};

/// Why memory must be in the images; none: it may go beside them.
pub(crate) fn obstacle(members: &[Member]) -> Option<String> {
    members.iter().find_map(|member| {
        let pid = member.host_pid;
        match godwit_memory::hazards(pid) {
            Ok(hazards) => hazards.first().map(ToString::to_string),
            Err(error) => Some(format!("process {pid} cannot be looked at: {error}")),
        }
        .or_else(|| has_locked(pid).then(|| format!("process {pid} has locked memory, which is not restored lazily")))
    })
}

/// In doubt it has.
fn has_locked(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:")?.split_whitespace().next());
    locked != Some("0")
}

/// What the images of all containers in `dir` say is beside them, with the pids that go over the wire.
pub(crate) fn promised(units: &Units, dir: &Path) -> Result<Vec<Pagemap>, PartError> {
    let mut all = Vec::new();
    for (number, unit) in units.list.iter().enumerate() {
        let pagemaps = Pagemap::read_all(&unit.images(dir));
        let pagemaps = pagemaps.map_err(|e| PartError::caused_by("see which memory is to be sent", e))?;
        let wire = |pagemap: Pagemap| Pagemap { pid: wire_pid(number, pagemap.pid), ..pagemap };
        all.extend(pagemaps.into_iter().map(wire));
    }
    Ok(all)
}

/// How much that is.
pub(crate) fn bytes(promised: &[Pagemap]) -> Bytes {
    Bytes(promised.iter().flat_map(|pagemap| &pagemap.lazy).map(|range| range.end - range.start).sum())
}

/// Sends what is promised out of the frozen processes.
pub(crate) fn send_all(promised: &[Pagemap], members: &[Member], stream: &mut Sender) -> Result<(), PartError> {
    for pagemap in promised.iter().filter(|pagemap| !pagemap.lazy.is_empty()) {
        let pid = pagemap.pid;
        let Some(member) = members.iter().find(|member| member.pid == pid) else {
            return Err(PartError::new(format!("process {pid} is in the images, and not there any more")));
        };
        let ranges: Vec<PageRange> = pagemap.lazy.iter().map(|range| PageRange::new(range.start, range.end)).collect();
        let mut reader = PageReader::open(member.host_pid).map_err(|e| PartError::caused_by("read its memory", e))?;
        let read = reader.read(&ranges, |chunk| send(pid, chunk.start, chunk.bytes, stream).map_err(Stopped::Send));
        let report = read.map_err(Stopped::into_error)?;
        // CRIU has listed it: it stands, so nothing can have gone.
        if let Some(lost) = report.vanished.first() {
            return Err(PartError::new(format!("the memory of process {pid} at {:#x} cannot be read", lost.start)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_process_may_go_and_one_that_does_not_exist_may_not() {
        let own = std::process::id().cast_signed();
        let member = |host_pid| Member { pid: 1, host_pid };
        assert_eq!(obstacle(&[member(own)]), None);
        assert!(obstacle(&[member(own), member(i32::MAX)]).is_some());
        assert!(has_locked(i32::MAX), "in doubt");
    }
}
