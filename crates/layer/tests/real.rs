//! Random writes in real overlays and directories arrive as they are. As root: the overlays are mounted in a mount namespace
//! of the test's own.

#![allow(unreachable_pub, reason = "a test binary has no outside; pub says what its modules use of each other")]

mod world;

use godwit_layer::{Form, Mapped};
use proptest::prelude::*;
use world::{Pair, Step, steps};

/// Says so and returns false where it cannot run.
fn can_mount(test: &str) -> bool {
    let can = nix::unistd::geteuid().is_root();
    if !can {
        eprintln!("SKIPPED: {test}: not root");
    }
    can
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_written_in_an_overlay_arrives(first in steps(), second in steps(), third in steps()) {
        if can_mount("whatever_is_written_in_an_overlay_arrives") {
            arrives(Form::Upper, [first, second, third])?;
        }
    }

    #[test]
    fn whatever_is_written_in_a_volume_arrives(first in steps(), second in steps(), third in steps()) {
        if can_mount("whatever_is_written_in_a_volume_arrives") {
            arrives(Form::Plain, [first, second, third])?;
        }
    }
}

fn arrives(form: Form, rounds: [Vec<Step>; 3]) -> Result<(), TestCaseError> {
    let told = world::in_own_mounts(move || {
        let mut pair = Pair::new(form);
        for steps in rounds {
            for step in &steps {
                step.take(&pair.source());
            }
            pair.sync(&Mapped::default());
            let (source, target) = (world::listing(&pair.source()), world::listing(&pair.target()));
            if source != target {
                return Err(format!("after {steps:#?}\nsource {source:#?}\ntarget {target:#?}"));
            }
        }
        Ok(())
    });
    told.map_err(TestCaseError::fail)
}

#[test]
fn nothing_more_is_sent_when_nothing_more_was_written() {
    if !can_mount("nothing_more_is_sent_when_nothing_more_was_written") {
        return;
    }
    world::in_own_mounts(|| {
        let mut pair = Pair::new(Form::Upper);
        std::fs::write(pair.source().join("new"), vec![7; 100_000]).unwrap();
        world::age(&pair.source());
        assert_eq!(pair.sync(&Mapped::default()).bytes, 100_000);
        assert_eq!(pair.sync(&Mapped::default()).changes, 0);
    });
}

#[test]
fn a_shared_mapping_is_sent_although_its_file_looks_the_same() {
    if !can_mount("a_shared_mapping_is_sent_although_its_file_looks_the_same") {
        return;
    }
    world::in_own_mounts(|| {
        let mut pair = Pair::new(Form::Plain);
        let path = pair.source().join("mapped");
        std::fs::write(&path, [b'a'; 8192]).unwrap();
        world::age(&pair.source());
        // A process of its own that maps it and writes into it on every line that it is sent.
        let mut writer = world::Mapper::start(&path);
        pair.sync(&Mapped::default());
        let before = std::fs::metadata(&path).unwrap();
        writer.write(b'b');
        let after = std::fs::metadata(&path).unwrap();
        use std::os::unix::fs::MetadataExt;
        assert_eq!(
            (before.ctime_nsec(), before.mtime_nsec()),
            (after.ctime_nsec(), after.mtime_nsec()),
            "as on a tmpfs"
        );
        let mut mapped = Mapped::default();
        mapped.add(writer.pid()).unwrap();
        // The container has it there where the test has it: the place's `inside` is its path.
        pair.sync(&mapped);
        assert_eq!(std::fs::read(pair.target().join("mapped")).unwrap()[0], b'b');
    });
}

#[test]
fn files_that_come_and_go_while_they_are_sent_do_no_harm() {
    if !can_mount("files_that_come_and_go_while_they_are_sent_do_no_harm") {
        return;
    }
    world::in_own_mounts(|| {
        let mut pair = Pair::new(Form::Upper);
        let (source, stop) = (pair.source(), std::sync::atomic::AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut n = 0_u32;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    n += 1;
                    let (dir, file) = (source.join(format!("d{}", n % 7)), format!("f{}", n % 3));
                    let _ = std::fs::create_dir(&dir);
                    let _ = std::fs::write(dir.join(&file), vec![n as u8; (n % 9000) as usize]);
                    let _ = std::fs::rename(dir.join(&file), dir.join("moved"));
                    if n.is_multiple_of(5) {
                        let _ = std::fs::remove_dir_all(&dir);
                        let _ = std::os::unix::fs::symlink("/etc", &dir);
                        let _ = std::fs::remove_file(&dir);
                    }
                }
            });
            /// Also when a sync panics: the scope waits for the writer.
            struct Stop<'a>(&'a std::sync::atomic::AtomicBool);
            impl Drop for Stop<'_> {
                fn drop(&mut self) {
                    self.0.store(true, std::sync::atomic::Ordering::Relaxed);
                }
            }
            let _stop = Stop(&stop);
            for _ in 0..50 {
                pair.sync(&Mapped::default());
            }
        });
        pair.sync(&Mapped::default());
        assert_eq!(world::listing(&pair.source()), world::listing(&pair.target()));
    });
}
