//! Workloads that begin with an image of their own.

use std::fs;

use crate::e2e::image::{directory, scenario, tar};
use crate::e2e::service::Client;
use crate::e2e::{Bed, STRATEGIES, left};

const FIELDS: &str =
    "env: { COLOUR: blue, PATH: /bin }, user: www, workdir: /srv, hostname: web, volumes: [/srv/data, /new],";

pub fn a_workload_has_what_its_image_and_the_scenario_say() {
    let bed = Bed::none();
    let image = directory(&bed);
    let name = image.file_name().unwrap();
    // Relative to the file, wherever the testbed is started from.
    let file = bed.file("scenario.yaml", &scenario(name.as_ref(), FIELDS, ""));
    bed.call_up(&[file.to_str().unwrap()]).code(0);
    let mut client = Client::connect(&bed);
    for (line, says) in [
        ("$ENV{COLOUR}.' '.$ENV{PATH}", "blue /bin"),
        ("$<.' '.(split ' ', $()[0]", "33 44"),
        ("use POSIX; POSIX::getcwd()", "/srv"),
        ("open my $f, '<', '/proc/sys/kernel/hostname'; <$f>", "web "),
        ("open my $f, '<', '/srv/data/begin' or die; <$f>", "of the image "),
        ("open my $f, '>', '/srv/data/mine' or die; print $f 'x'; close $f", "1"),
        ("join ' ', (stat '/new')[4, 5]", "33 44"),
        ("open my $f, '>', '/dev/shm/x' or die; 1", "1"),
        ("-e '/usr/bin/stress-ng' ? 'the node has leaked' : 'an own root'", "an own root"),
    ] {
        assert_eq!(client.say(line), says, "{line}");
    }
    assert!(!image.join("srv/data/mine").exists(), "an image is only read");
    for to in ["b", "a"] {
        bed.migrate("app", to);
        assert_eq!(client.say("$ENV{COLOUR}.$<"), "blue33", "on {to}");
        assert_eq!(client.say("open my $f, '<', '/srv/data/mine' or die; <$f>"), "x", "on {to}");
        bed.assert_runs_only_on("app", to);
    }
    assert_eq!(fs::read_dir(image.join("srv/data")).unwrap().count(), 1, "an image is only read");
}

pub fn a_tar_is_unpacked_and_moves() {
    let bed = Bed::none();
    let image = tar(&bed);
    let file = bed.file("scenario.yaml", &scenario(&image, "env: { A: b }, volumes: [/srv/data],", "our $n = 0;"));
    bed.call_up(&[file.to_str().unwrap()]).code(0);
    let mut client = Client::connect(&bed);
    for (moves, strategy) in STRATEGIES.into_iter().enumerate() {
        assert_eq!(client.say("$n++"), moves.to_string());
        bed.migrate_by(strategy, "app", if moves % 2 == 0 { "b" } else { "a" });
    }
    assert_eq!(client.say("$n"), "3");
}

pub fn an_image_that_is_none_is_told_before_anything_is_made() {
    let bed = Bed::none();
    for (image, fields, says) in [
        ("/no/such/image.tar", "", "cannot look at /no/such/image.tar"),
        ("/etc/passwd", "", "/etc/passwd is "),
        ("/", "user: nobody-knows,", "the image has no user \"nobody-knows\""),
    ] {
        let file = bed.file("scenario.yaml", &scenario(image.as_ref(), fields, ""));
        bed.call_up(&[file.to_str().unwrap()]).fails(2).says("workload app").says(says);
        left::assert_nothing(bed.name());
    }
    let text = scenario("/".as_ref(), "", "");
    let (without, _) = text.split_once(" command:").unwrap();
    let file = bed.file("scenario.yaml", &format!("{without} }}\n"));
    bed.call_up(&[file.to_str().unwrap()]).fails(2).says("does not say what to run; add `command`");
}
