//! What can be typed.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use godwit_model::{Bandwidth, NodeName, StrategyChoice, WorkloadName};
use godwit_testbed::{Backend, TestbedConfig, TestbedName};

const EXIT_CODES: &str = "\
Exit status:
  0    all went well (of a run: every migration ended well and no client lost anything)
  1    it ran, and something did not go well; the output says what
  2    the command, a file or a snapshot is not right; nothing was touched
  3    this host lacks something that it needs; the message says what (see godwit doctor)
  130  interrupted; everything was cleaned up";

const EXAMPLES: &str = "\
Examples:
  godwit doctor                                    what this host has and lacks
  godwit demo                                      a car drives by; its service follows it
  godwit run scenarios/car.yaml --world sim        the same drive in virtual time
  godwit testbed up && godwit migrate video edge2  move a service by hand
  godwit policy decide --policy threshold s.jsonl  ask a policy about snapshots";

/// Non-stop migration of edge services: containers and virtual machines follow their users while they run.
#[derive(Debug, Parser)]
#[command(name = "godwit", version, after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
#[command(propagate_version = true, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    /// Say more (-v: what is done, -vv: every step); to standard error. RUST_LOG overrides it.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show it: a car drives past three edge nodes and back, and its service follows it while running.
    Demo(Demo),
    /// Run a scenario in a world and write its report.
    Run(Run),
    /// Start, look at or end a testbed that stays up.
    Testbed {
        #[command(subcommand)]
        command: Testbed,
    },
    /// Move a workload of a running testbed to a node, live.
    Migrate(Migrate),
    /// Write a checkpoint of a running workload into a file, or look into such a file.
    #[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
    Checkpoint(Checkpoint),
    /// Bring a checkpoint back to life: as the workload itself, or as a copy beside it.
    Restore(Restore),
    /// What a running testbed measures, where its workloads run and why.
    Status(Status),
    /// List the migrations of a running testbed, also those that are open, from its journal.
    Journal(Journal),
    /// Check scenario files.
    Scenario {
        #[command(subcommand)]
        command: Scenario,
    },
    /// List policies, describe them, ask them.
    Policy {
        #[command(subcommand)]
        command: Policy,
    },
    /// Compare Godwit's migration with plain `runc checkpoint` and `runc restore` of the same container.
    Bench {
        #[command(subcommand)]
        command: Bench,
    },
    /// What this host has and lacks, and what follows.
    Doctor(Doctor),
    /// Print a completion script for a shell.
    #[command(after_help = "Example: godwit completions bash > /etc/bash_completion.d/godwit")]
    Completions {
        /// For which shell.
        shell: Shell,
    },
    /// Write the man pages into a folder.
    Man {
        /// The folder; it is made if it does not exist.
        dir: PathBuf,
    },
    /// The first process of a node.
    #[command(hide = true)]
    NodeInit {
        /// Its orders, as JSON.
        config: String,
    },
    /// A node's daemon, which moves workloads to and from it.
    #[command(hide = true)]
    Agent {
        /// Its configuration, as JSON.
        config: String,
    },
    /// Puts the memory of a restored workload in its place; started by an agent.
    #[command(hide = true)]
    PageHandler,
    /// The counting service that clients measure against.
    #[command(hide = true)]
    Service(Service),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  godwit demo --out /tmp/demo && xdg-open /tmp/demo/report.html")]
pub struct Demo {
    /// Where the report goes.
    #[arg(long, value_name = "DIR", default_value = "out/demo")]
    pub out: PathBuf,
    /// Seconds of the scenario in a second of the wall clock.
    #[arg(long, default_value_t = 2.0, value_parser = speed)]
    pub speed: f64,
    /// Name of the testbed; two with different names do not collide.
    #[arg(long, value_name = "TESTBED", default_value = "demo")]
    pub name: TestbedName,
    /// How the workload's memory travels.
    #[arg(long, default_value_t, value_name = "auto|pre-copy|post-copy|stop-copy")]
    pub strategy: StrategyChoice,
    #[command(flatten)]
    pub host: Host,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum World {
    /// Virtual time: a drive in a blink, no root needed.
    Sim,
    /// This machine: namespaces, real delay, real containers that really migrate. As root.
    Testbed,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  godwit run scenarios/car.yaml --world sim
  godwit run scenarios/car.yaml --world testbed --speed 2 --out out/car
  godwit run my.yaml --world sim --policy threshold --set rtt_average_below_ms=20 --seed 7 --json | jq .migrations")]
pub struct Run {
    /// The scenario file (YAML); `-` reads standard input.
    pub scenario: PathBuf,
    /// Where it runs.
    #[arg(long, value_enum, default_value_t = World::Testbed)]
    pub world: World,
    /// The policy that decides, instead of the scenario's.
    #[arg(long, value_name = "NAME")]
    pub policy: Option<String>,
    /// A parameter of the policy; may be repeated.
    #[arg(long = "set", value_name = "PARAMETER=VALUE", value_parser = parameter)]
    pub set: Vec<(String, f64)>,
    /// Seeds everything random, instead of the scenario's.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Seconds of the scenario in a second of the wall clock, instead of the scenario's. The simulator does not wait.
    #[arg(long, value_parser = speed)]
    pub speed: Option<f64>,
    /// Where the results go [default: out/SCENARIO-WORLD].
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Print summary.json to standard output instead of the table.
    #[arg(long)]
    pub json: bool,
    /// Name of the testbed; two with different names do not collide.
    #[arg(long, value_name = "TESTBED", default_value = "run")]
    pub name: TestbedName,
    /// How the workload's memory travels.
    #[arg(long, default_value_t, value_name = "auto|pre-copy|post-copy|stop-copy")]
    pub strategy: StrategyChoice,
    #[command(flatten)]
    pub host: Host,
}

#[derive(Debug, Subcommand)]
pub enum Testbed {
    /// Start a testbed and leave it running; nothing moves in it but by `godwit migrate`.
    #[command(after_help = "\
Examples:
  godwit testbed up
  godwit testbed up scenarios/load.yaml --name second
  godwit migrate video edge3 --name second
  godwit testbed down --name second")]
    Up {
        /// Whose nodes, users and workloads, as they are at its start [default: the car].
        scenario: Option<PathBuf>,
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        host: Host,
        /// Stay in the foreground until ^C.
        #[arg(long)]
        foreground: bool,
        /// Say nothing more once it stands.
        #[arg(long, hide = true)]
        quiet: bool,
    },
    /// What runs where; the same as `godwit status`.
    Status(Status),
    /// End a testbed and remove everything of it, also after it was killed.
    Down {
        #[command(flatten)]
        which: Which,
    },
}

#[derive(Debug, Args)]
pub struct Which {
    /// Which testbed.
    #[arg(long, value_name = "TESTBED", default_value = "testbed")]
    pub name: TestbedName,
}

#[derive(Debug, Args)]
pub struct NodeImage {
    /// The node image's root file system [default: the one that scripts/setup-node-image.sh made].
    #[arg(long, value_name = "DIR", env = "GODWIT_NODE_IMAGE")]
    node_image: Option<PathBuf>,
}

impl NodeImage {
    /// What was given, or what set-up makes.
    pub fn path(&self) -> PathBuf {
        self.node_image.clone().unwrap_or_else(godwit_testbed::default_image)
    }
}

#[derive(Debug, Args)]
pub struct Host {
    #[command(flatten)]
    node_image: NodeImage,
    /// Who delays packets: a thread of Godwit's, on any kernel, or the kernel itself, where it has netem.
    #[arg(long, value_enum, default_value_t = LinkBackend::Userspace)]
    link: LinkBackend,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LinkBackend {
    Userspace,
    Netem,
}

impl Host {
    /// The same on a command line, for a process of its own.
    pub fn to_args(&self) -> Vec<OsString> {
        let link = self.link.to_possible_value().map_or_else(OsString::new, |value| value.get_name().into());
        vec!["--node-image".into(), self.node_image.path().into(), "--link".into(), link]
    }

    /// A testbed for the scenario on this host.
    pub fn testbed<'a>(
        &self,
        name: &TestbedName,
        scenario: &'a godwit_scenario::Scenario,
    ) -> io::Result<TestbedConfig<'a>> {
        Ok(TestbedConfig {
            name: name.clone(),
            program: std::env::current_exe()?,
            image: self.node_image.path(),
            image_cache: godwit_testbed::image_cache(),
            links: match self.link {
                LinkBackend::Userspace => Backend::Userspace,
                LinkBackend::Netem => Backend::Netem,
            },
            scenario,
        })
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  godwit migrate video edge2 --json | jq '{freeze_ms, gap_ms, outcome}'
  godwit migrate --cancel video")]
pub struct Migrate {
    /// What moves.
    #[arg(required_unless_present = "cancel")]
    pub workload: Option<WorkloadName>,
    /// To where.
    #[arg(required_unless_present = "cancel")]
    pub node: Option<NodeName>,
    /// Stop the migration of this workload and wait for its end: before the commit it runs on where it was.
    #[arg(long, value_name = "WORKLOAD", conflicts_with_all = ["workload", "node", "strategy", "bandwidth"])]
    pub cancel: Option<WorkloadName>,
    /// How its memory travels.
    #[arg(long, default_value_t, value_name = "auto|pre-copy|post-copy|stop-copy")]
    pub strategy: StrategyChoice,
    /// Send no more than that, such as 100Mbit or 50MiB/s; else what the scenario says, or what the link carries.
    #[arg(long, value_name = "RATE")]
    pub bandwidth: Option<Bandwidth>,
    /// Print the migration's record as JSON.
    #[arg(long)]
    pub json: bool,
    /// Print what happens as it happens, a line of JSON each; the record comes last.
    #[arg(long, conflicts_with = "json")]
    pub events: bool,
    #[command(flatten)]
    pub which: Which,
}

const CHECKPOINT_HELP: &str = "\
The service stands still while its state is copied, its packets are held meanwhile, and it runs on while the file is
written. With --stop it is ended with its checkpoint, and what its clients send is kept until it is restored: then even
its connections go on.

Examples:
  godwit checkpoint video video.ckpt               it runs on
  godwit checkpoint inspect video.ckpt             what is in it; needs no root and no testbed
  godwit restore video.ckpt --node edge2 --as twin a copy of it beside it
  godwit checkpoint video video.ckpt --stop        end it, and bring it back elsewhere:
  godwit restore video.ckpt --node edge3
  godwit checkpoint video video.tar --format oci   an image for CRI-O, Podman or containerd";

#[derive(Debug, Args)]
#[command(after_help = CHECKPOINT_HELP)]
pub struct Checkpoint {
    #[command(subcommand)]
    pub command: Option<CheckpointCommand>,
    /// What a checkpoint is taken of.
    #[arg(required = true)]
    pub workload: Option<WorkloadName>,
    /// The file to write.
    #[arg(required = true)]
    pub path: Option<PathBuf>,
    /// End the service with its checkpoint; its packets are kept until it is restored.
    #[arg(long)]
    pub stop: bool,
    /// How it is packed.
    #[arg(long, value_enum, default_value_t = CheckpointFormat::Godwit)]
    pub format: CheckpointFormat,
    /// Replace the file if there is one.
    #[arg(long)]
    pub force: bool,
    /// Print how it went as JSON.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub which: Which,
}

#[derive(Debug, Subcommand)]
pub enum CheckpointCommand {
    /// What is in a checkpoint: processes, memory, sockets, mounts, sizes. Checks all of it, like a restore.
    #[command(after_help = "\
Reads Godwit's own files, OCI checkpoint images (as an archive), and the archives of the kubelet's checkpoint API and of
`podman container checkpoint --export`.

Examples:
  godwit checkpoint inspect video.ckpt
  godwit checkpoint inspect /var/lib/kubelet/checkpoints/checkpoint-x.tar --json | jq .processes")]
    Inspect {
        /// The file.
        path: PathBuf,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CheckpointFormat {
    /// A tar in zstd, with a digest of every entry and of the whole.
    Godwit,
    /// An OCI image archive with the annotations by which container engines know a checkpoint.
    Oci,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Without --as the workload itself comes back, at its own address; it must not run. With --as a copy is made beside it, with an
address of its own (see godwit status); any number of copies of one checkpoint can run at a time.

What listens in the checkpoint listens again. A TCP connection can only go on once, at its own address and while its other
end still holds it: that is so for a service that was ended by `godwit checkpoint --stop` and comes back from that very
file in the same testbed. Elsewhere the service finds its connections closed.

Examples:
  godwit restore video.ckpt --node edge2
  godwit restore video.ckpt --node edge1 --as video-a && godwit restore video.ckpt --node edge3 --as video-b
  godwit restore checkpoint-x.tar --node edge1 --as from-kubernetes")]
pub struct Restore {
    /// The file: Godwit's own, an OCI checkpoint image or an archive of the kubelet.
    pub path: PathBuf,
    /// Where it runs.
    #[arg(long)]
    pub node: NodeName,
    /// As a copy with this name, and with an address of its own.
    #[arg(long = "as", value_name = "NAME")]
    pub copy: Option<WorkloadName>,
    /// What becomes of TCP connections.
    #[arg(long, value_enum, default_value_t = Tcp::Auto)]
    pub tcp: Tcp,
    /// Print how it went as JSON.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub which: Which,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Tcp {
    /// They go on where they can, and are closed elsewhere.
    Auto,
    /// The service finds them closed.
    Close,
    /// They go on, or nothing is restored.
    Keep,
}

#[derive(Debug, Args)]
pub struct Status {
    /// As JSON.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub which: Which,
}

#[derive(Debug, Args)]
pub struct Journal {
    /// A journal that is somewhere else.
    #[arg(conflicts_with = "name")]
    pub path: Option<PathBuf>,
    /// At most so many, the newest.
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub last: u32,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub which: Which,
}

#[derive(Debug, Subcommand)]
pub enum Scenario {
    /// Check files; every problem is shown with its place.
    #[command(after_help = "Example: godwit scenario check scenarios/*.yaml")]
    Check {
        /// The files; `-` reads standard input.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub enum Policy {
    /// All policies with a line on each.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// A policy's parameters as a JSON schema.
    Schema {
        /// Which policy.
        policy: String,
    },
    /// Read snapshots, one JSON object a line, and print one decision a line.
    #[command(after_help = r#"Example:
  echo '{"nodes":[{"name":"edge1","load":1.4},{"name":"edge2","load":1.1}],
         "users":[{"name":"car","rtt_ms":{"edge1":30.2,"edge2":4.0}}],
         "workloads":[{"name":"video","kind":"container","node":"edge1","users":["car"]}]}' |
    tr -d '\n' | godwit policy decide --policy threshold

Every recorded run keeps its snapshots in this form: out/DIR/snapshots.jsonl.
With several workloads in a snapshot the line is {"decisions":[…]}.
A line that cannot be read stops it with exit status 2; the decisions before it were printed."#)]
    Decide {
        /// Which policy.
        #[arg(long, default_value = "threshold")]
        policy: String,
        /// A parameter of the policy; may be repeated.
        #[arg(long = "set", value_name = "PARAMETER=VALUE", value_parser = parameter)]
        set: Vec<(String, f64)>,
        /// The snapshots; `-` is standard input.
        #[arg(default_value = "-")]
        file: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Migrate a service there and back, by every strategy and by plain runc in turn, and print what it costs.
    #[command(after_help = "\
A client asks the service every 5 ms; the service writes 4 pages a millisecond, and times its own steps.
Whether the figures are what they are to be is printed with them; it is no failure if they are not.

Examples:
  godwit bench migrate --memory 16MiB,256MiB,1GiB --runs 10
  godwit bench migrate --strategy pre-copy,auto --json | jq '.rows[] | {by, gap: .gap_ms.median}'

JSON: {godwit, machine, runs, rows, measures, moves}. A row is what the moves of one size and kind come to (times in ms,
as median and worst), a move is one of them with all its parts; docs/performance.md says what each field is.")]
    Migrate(BenchMigrate),
}

#[derive(Debug, Args)]
pub struct BenchMigrate {
    /// Memory of the service; several are tried one after the other.
    #[arg(long, value_name = "SIZE", value_delimiter = ',', default_value = "16MiB")]
    pub memory: Vec<godwit_model::Bytes>,
    /// Migrations of each kind and size.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub runs: u32,
    /// How the workload's memory travels; several take turns.
    #[arg(long, value_name = "STRATEGY", value_delimiter = ',',
          default_values_t = godwit_model::Strategy::ALL.map(StrategyChoice::Fixed))]
    pub strategy: Vec<StrategyChoice>,
    /// Without plain runc beside it.
    #[arg(long)]
    pub no_runc: bool,
    /// As JSON.
    #[arg(long, conflicts_with = "markdown")]
    pub json: bool,
    /// As markdown.
    #[arg(long)]
    pub markdown: bool,
    /// Put the markdown into this file too, between its lines "<!-- bench: begin -->" and "<!-- bench: end -->".
    #[arg(long, value_name = "FILE")]
    pub into: Option<PathBuf>,
    /// Name of the testbed.
    #[arg(long, value_name = "TESTBED", default_value = "bench")]
    pub name: TestbedName,
    #[command(flatten)]
    pub host: Host,
}

#[derive(Debug, Args)]
pub struct Doctor {
    /// As JSON.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub node_image: NodeImage,
}

#[derive(Debug, Args)]
pub struct Service {
    /// Where it listens.
    #[arg(long)]
    pub listen: std::net::SocketAddr,
    /// Memory that it holds and checks.
    #[arg(long, default_value = "16MiB")]
    pub memory: godwit_model::Bytes,
    /// How much of it is written anew in a second.
    #[arg(long, default_value = "0")]
    pub dirty_rate: godwit_model::Bytes,
}

fn speed(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(speed) if (0.01..=1000.0).contains(&speed) => Ok(speed),
        _ => Err("a speed is a number from 0.01 to 1000".into()),
    }
}

fn parameter(text: &str) -> Result<(String, f64), String> {
    let (name, value) = text.split_once('=').ok_or("write it as PARAMETER=VALUE, e.g. rtt_average_below_ms=20")?;
    let value = value.parse().map_err(|_| format!("\"{value}\" is no number"))?;
    Ok((name.to_owned(), value))
}
