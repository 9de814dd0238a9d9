//! The files in a container's tmpfs mounts.
//!
//! CRIU puts every tmpfs through tar, at both ends and one after the other, which costs some 8 ms even when it is
//! empty. We leave these mounts out of CRIU's images, look whether there is anything in them, and carry it beside.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Result};
use crate::images::ImagesDir;
use crate::limit::Limit;
use crate::node::NodeEnv;
use crate::plan::{ExternalMount, RestorePlan};

/// Both ends keep owners by number, and holes, attributes and hard links.
const FAITHFUL: [&str; 5] = ["--numeric-owner", "--sparse", "--xattrs", "--acls", "--warning=no-file-ignored"];

/// The tmpfs mounts that are not empty, by where the process `init` (a pid of the host) has them.
pub(crate) fn with_files(plan: &RestorePlan, init: i32) -> Result<Vec<(&ExternalMount, PathBuf)>> {
    let mut found = Vec::new();
    for mount in plan.external.iter().filter(|m| m.content) {
        let dir = PathBuf::from(format!("/proc/{init}/root{}", mount.mountpoint));
        let mut entries = fs::read_dir(&dir).context(|| format!("list {}", dir.display()))?;
        if entries.next().is_some() {
            found.push((mount, dir));
        }
    }
    Ok(found)
}

/// Puts the files below `dir` into the images.
pub(crate) fn save(mount: &ExternalMount, dir: &Path, images: &ImagesDir, limit: &Limit) -> Result<()> {
    // Files of mounts below it are theirs. Sockets are left out: CRIU binds them anew.
    let args = ["--create", "--one-file-system", "--file"];
    tar(&args, &images.path().join(image(mount)), dir, limit).map_err(|e| about(mount, e))
}

/// Takes the files out of the images, for every mount that had some; `place` says where it is.
pub(crate) fn load(
    external: &[ExternalMount],
    place: impl Fn(usize) -> PathBuf,
    images: &ImagesDir,
    limit: &Limit,
) -> Result<()> {
    for (n, mount) in external.iter().enumerate().filter(|(_, m)| m.content) {
        let archive = images.path().join(image(mount));
        if archive.exists() {
            let args = ["--extract", "--preserve-permissions", "--same-owner", "--file"];
            tar(&args, &archive, &place(n), limit).map_err(|e| about(mount, e))?;
        }
    }
    Ok(())
}

fn image(mount: &ExternalMount) -> String {
    format!("tmpfs-{}.tar", mount.key)
}

/// The host's own tar: the container's would be a stranger's program.
fn tar(args: &[&str], archive: &Path, dir: &Path, limit: &Limit) -> Result<()> {
    let command = NodeEnv::host().command("tar").args(args).arg(archive).args(FAITHFUL);
    // All options before the one file name: tar reads them in order.
    let command = command.arg("--directory").arg(dir);
    let command = if args[0] == "--create" { command.arg(".") } else { command };
    command.run(limit).map(|_| ())
}

fn about(mount: &ExternalMount, error: Error) -> Error {
    match error {
        Error::Command { message, .. } => {
            Error::Command { program: format!("tar of the tmpfs {}", mount.mountpoint), message }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_saved_is_loaded_with_its_modes() {
        let (from, to, dir) =
            (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let images = ImagesDir::create(dir.path()).unwrap();
        let mount = ExternalMount { key: "godwit0".into(), mountpoint: "/tmp".into(), content: true };
        fs::create_dir(from.path().join("sub dir")).unwrap();
        fs::write(from.path().join("sub dir/-file"), "content").unwrap();
        fs::set_permissions(from.path().join("sub dir"), fs::Permissions::from_mode(0o1777)).unwrap();
        let limit = Limit::seconds(10);
        save(&mount, from.path(), &images, &limit).unwrap();
        load(&[mount], |_| to.path().to_path_buf(), &images, &limit).unwrap();
        assert_eq!(fs::read_to_string(to.path().join("sub dir/-file")).unwrap(), "content");
        assert_eq!(fs::metadata(to.path().join("sub dir")).unwrap().permissions().mode() & 0o7777, 0o1777);
    }
}
