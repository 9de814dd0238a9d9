//! A testbed in which something is killed, full or broken. As root, with the node image and TUN.
//!
//! After each: exactly one copy runs, the client's connection is alive (or its loss is told), and another migration works.

#![allow(unreachable_pub, reason = "a test binary has no outside; pub says what its modules use of each other")]

#[path = "../e2e/mod.rs"]
mod e2e;

mod agents;
mod broken;
mod cancelled;
mod containers;
mod crashed;
mod full;
mod hold;
mod interrupted;
mod killed;
mod link;
mod memory;
mod twice;

use std::process::ExitCode;

fn main() -> ExitCode {
    let tests = e2e::tests![
        killed::the_target_s_criu_in_the_restore,
        killed::the_source_s_criu_while_it_holds,
        killed::both_crius,
        killed::the_source_s_criu_in_the_dump,
        killed::the_frozen_container,
        killed::the_container_before_the_freeze,
        killed::the_container_while_nothing_moves,
        cancelled::before_its_commit_the_service_runs_on_where_it_was,
        cancelled::what_does_not_move_cannot_be_cancelled,
        full::the_target,
        full::the_source,
        full::the_target_s_memory,
        broken::the_target_s_criu,
        broken::the_target_s_runc,
        broken::the_source_s_criu,
        broken::the_way_between_the_nodes,
        interrupted::while_nodes_come_up,
        interrupted::in_the_middle_of_a_migration,
        interrupted::again_and_again,
        interrupted::a_testbed_that_comes_up_in_the_background,
        interrupted::by_down_in_the_middle_of_a_migration,
        interrupted::a_testbed_in_the_foreground,
        interrupted::the_demo,
        agents::the_source_s_in_every_phase,
        agents::the_target_s_in_every_phase,
        memory::anyone_is_killed_and_nothing_lost,
        memory::by_images_no_agent_that_is_killed_harms,
        memory::handler_and_guard_are_killed_at_once,
        agents::files_are_whole_whichever_is_killed,
        agents::the_source_s_while_it_holds,
        agents::the_target_s_in_the_restore,
        agents::while_nothing_moves,
        containers::the_target_s_agent,
        containers::the_source_s_agent,
        containers::one_criu_of_the_target,
        containers::one_criu_of_the_source,
        containers::a_target_that_is_full,
        containers::either_agent_in_every_phase,
        twice::the_second_is_refused_and_the_first_goes_on,
        twice::of_two_asked_for_at_once_one_moves,
        link::cut_in_every_phase,
        link::stalled_in_every_phase,
        link::away_for_long,
        crashed::down_removes_what_is_left_and_says_what,
        crashed::up_again_without_down,
        crashed::in_the_middle_of_a_migration,
        crashed::while_memory_goes_ahead,
        crashed::a_node_that_dies_is_no_target,
        crashed::a_node_that_dies_takes_its_workload_along_which_is_told,
        crashed::a_run_does_not_hurt_the_next,
    ];
    e2e::run(e2e::Needs::Testbed, tests)
}
