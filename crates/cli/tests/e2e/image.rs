//! A small image with Perl, and in it a service that says of its files whether they are as it wrote them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::bed::Bed;
use super::harness::node_image;

/// Evaluates each line that it gets, and answers with the result. Between them it calls `step`, if `first` defines one.
pub(super) const EVAL: &str = r#"use IO::Socket::INET; use IO::Select;
my $l = IO::Socket::INET->new(Listen => 16, LocalPort => 5555, ReuseAddr => 1) or die "listen: $!";
my $s = IO::Select->new($l);
while (1) { step() if defined &step; for my $h ($s->can_read(defined &step ? 0 : undef)) {
  if ($h == $l) { $s->add(scalar $l->accept) }
  elsif (sysread $h, my $line, 4096) { my $r = eval $line; $r = "failed: $@" if $@; $r =~ s/\n/ /g; syswrite $h, "$r\n" }
  else { $s->remove($h); close $h } } }"#;

/// A directory with Perl's part of the node image, a user `www` (33:44), `/srv/data/begin` and `/etc/motd`.
pub fn directory(bed: &Bed) -> PathBuf {
    let (root, from) = (bed.path("image"), node_image());
    for dir in ["usr/bin", "usr/lib", "usr/lib64", "etc", "srv/data", "tmp", "var/old"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    for name in ["bin", "lib", "lib64"] {
        symlink(format!("usr/{name}"), root.join(name)).unwrap();
    }
    let libraries = run(Command::new("chroot").arg(&from).args(["ldd", "/usr/bin/perl"]));
    let libraries = libraries.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned);
    for file in libraries.chain(["/usr/bin/perl".to_owned()]) {
        let place = root.join(&file[1..]);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::copy(from.join(&file[1..]), place).unwrap();
    }
    let base = "usr/lib/x86_64-linux-gnu/perl-base".replace("x86_64", std::env::consts::ARCH);
    run(Command::new("cp").arg("-a").arg(from.join(&base)).arg(root.join(&base)));
    fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\nwww:x:33:44::/srv:/bin/sh\n").unwrap();
    fs::write(root.join("etc/motd"), "of the image\n").unwrap();
    fs::write(root.join("srv/data/begin"), "of the image\n").unwrap();
    run(Command::new("chown").args(["-R", "33:44"]).arg(root.join("srv/data")));
    root
}

/// The same as a tar.
pub fn tar(bed: &Bed) -> PathBuf {
    let (directory, tar) = (directory(bed), bed.path("image.tar"));
    run(Command::new("tar").arg("--create").arg("--file").arg(&tar).arg("--directory").arg(directory).arg("."));
    tar
}

/// A workload `app` on `a` of two nodes, `a` and `b`, that evaluates lines after it has done `first` (Perl). `fields` are
/// further fields of the workload.
pub fn scenario(image: &Path, fields: &str, first: &str) -> String {
    let command = serde_json::to_string(&["perl", "-e", &format!("{first}\n{EVAL}")]).expect("plain strings");
    let image = image.display();
    format!(
        "version: 1\nname: files\nduration: 60s\n\
         nodes: [ {{ name: a }}, {{ name: b }} ]\n\
         users: [ {{ name: car, rtt: {{ a: 1ms, b: 2ms }} }} ]\n\
         workloads:\n  - {{ name: app, node: a, users: [car], port: 5555, image: {image}, {fields} command: {command} }}\n"
    )
}

#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command.output().expect("it starts");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
