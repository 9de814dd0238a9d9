//! What a container is made of: layers, program, environment.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use godwit_criu::{Limit, NodeEnv, Spec};
use godwit_image::{Config, User};
use godwit_scenario::{Container, Workload};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use crate::container::PROGRAM;
use crate::error::TestbedError;
use crate::images::Begin;
use crate::network::any_address;
use crate::node_init::{APP_DIR, IMAGE_DIR};

/// See the module. Paths are the container's, where nothing else is said.
#[derive(Debug, Clone, Default)]
pub(crate) struct Contents {
    /// Its layers, in any node.
    pub(crate) lower: Vec<PathBuf>,
    /// The lowest layer on the host.
    root: PathBuf,
    pub(crate) args: Vec<String>,
    env: Vec<(String, String)>,
    user: User,
    workdir: Option<PathBuf>,
    hostname: Option<String>,
    /// Host name and IPC namespace are those of its workload, which has several containers.
    shares: bool,
    /// The image of its own, as the scenario has it. Its program may count on what engines give a container.
    pub(crate) image: Option<PathBuf>,
}

impl Contents {
    /// The node image with Godwit's program.
    pub(crate) fn of_node_image() -> Self {
        Self { lower: vec![APP_DIR.into(), IMAGE_DIR.into()], ..Self::default() }
    }

    /// What the scenario says goes before what the image says.
    pub(crate) fn of(
        workload: &Workload,
        container: &Container,
        begin: Option<&Begin>,
        node_image: &Path,
    ) -> Result<Self, TestbedError> {
        let of = container.name.as_ref().map(|name| format!(", container {name}")).unwrap_or_default();
        let bad = |why: String| TestbedError::Unsupported(format!("workload {}{of}: {why}", workload.name));
        let config = begin.map(|begin| begin.config.clone()).unwrap_or_default();
        let root = begin.map_or(node_image, |begin| begin.rootfs.as_path()).to_owned();
        let user = User::find(&root, container.user.as_deref().unwrap_or(&config.user));
        let user = user.map_err(|error| bad(error.to_string()))?;
        let args = match begin {
            _ if !container.command.is_empty() => [&container.command[..], &container.args].concat(),
            None => counting_service(workload),
            Some(_) if !container.args.is_empty() => [&config.entrypoint[..], &container.args].concat(),
            Some(_) if !config.args().is_empty() => config.args(),
            Some(begin) => {
                return Err(bad(format!(
                    "the image {} does not say what to run; add `command`",
                    begin.image.display()
                )));
            }
        };
        let workdir = Some(PathBuf::from(&config.working_dir)).filter(|dir| dir.is_absolute());
        let lower = begin.map_or_else(|| Self::of_node_image().lower, |begin| vec![begin.inside.clone()]);
        Ok(Self {
            lower,
            root,
            args,
            env: env(container, &config),
            user,
            workdir: container.workdir.clone().or(workdir),
            hostname: workload.hostname.clone().filter(|_| !workload.is_several()),
            shares: workload.is_several(),
            image: begin.map(|begin| begin.image.clone()),
        })
    }

    /// All but program, root file system and volumes.
    pub(crate) fn apply(&self, mut spec: Spec) -> Spec {
        for (name, value) in &self.env {
            spec = spec.env(name, value);
        }
        if let Some(workdir) = &self.workdir {
            spec = spec.cwd(workdir);
        }
        if let Some(hostname) = &self.hostname {
            spec = spec.hostname(hostname);
        }
        if self.image.is_some() {
            // Shared memory of either kind: CRIU carries that of System V with its namespace only.
            spec = spec.tmpfs("/dev/shm").without_io_uring();
            if !self.shares {
                spec = spec.own_ipc();
            }
        }
        spec.user(self.user.uid, self.user.gid)
    }

    /// Puts into the empty directory `volume`, a path of the host, what there is at `inside` without it; if there is nothing,
    /// the volume is its user's.
    pub(crate) fn fill(&self, volume: &Path, inside: &Path, limit: &Limit) -> godwit_criu::Result<()> {
        let failed = |what: String| move |source| godwit_criu::Error::Io { what, source };
        let Some(from) = self.find(inside).map_err(failed(format!("look at {} of the image", inside.display())))?
        else {
            let owned = chown(volume, Some(self.user.uid), Some(self.user.gid));
            return owned.map_err(failed(format!("give {} away", volume.display())));
        };
        let mut copy = NodeEnv::host().command("cp");
        let from = format!("/proc/self/fd/{}/.", copy.fd(&from)?);
        copy.args(["--archive", "--"]).arg(from).arg(volume).run(limit).map(drop)
    }

    /// A directory of the image, whose links do not lead out of it.
    fn find(&self, inside: &Path) -> io::Result<Option<File>> {
        let root = File::open(&self.root)?;
        let how = OpenHow::new().flags(OFlag::O_DIRECTORY | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_IN_ROOT);
        match openat2(&root, inside, how) {
            Ok(found) => Ok(Some(found.into())),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

fn env(container: &Container, config: &Config) -> Vec<(String, String)> {
    let pair = |text: &String| text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    let own = container.env.iter().map(|(name, value)| (name.clone(), value.clone()));
    config.env.iter().filter_map(pair).chain(own).collect()
}

fn counting_service(workload: &Workload) -> Vec<String> {
    let listen = SocketAddr::new(any_address(), workload.port).to_string();
    let (memory, dirty) = (workload.memory.0.to_string(), workload.dirty_rate.0.to_string());
    let args = [PROGRAM, "service", "--listen", &listen, "--memory", &memory, "--dirty-rate", &dirty];
    args.map(str::to_owned).to_vec()
}
