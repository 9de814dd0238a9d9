//! The command line without a testbed: what needs no root.

#![allow(unreachable_pub, reason = "a test binary has no outside; pub says what its modules use of each other")]

#[path = "../e2e/mod.rs"]
mod e2e;

mod hand;
mod messages;
mod output;
mod policy;
mod scenario;
mod sim;
mod speak;
mod unprivileged;

use std::process::ExitCode;

fn main() -> ExitCode {
    let tests = e2e::tests![
        sim::follows_the_car_there_and_back,
        sim::the_same_run_twice_is_the_same_to_the_byte,
        sim::another_seed_measures_otherwise_and_decides_the_same,
        sim::json_prints_the_summary_alone,
        sim::its_snapshots_make_a_policy_decide_as_it_did,
        sim::a_policy_and_its_parameters_can_be_chosen,
        sim::a_scenario_comes_from_standard_input_too,
        sim::all_shipped_scenarios_run,
        output::a_file_in_the_place_of_the_folder_is_refused,
        output::a_folder_of_somebody_else_is_refused,
        output::a_folder_that_cannot_be_made_is_refused,
        output::an_earlier_run_is_replaced,
        output::nothing_is_made_when_the_request_is_wrong,
        policy::the_issue_s_own_line_is_answered,
        policy::several_workloads_make_a_list,
        policy::a_bad_line_stops_it_with_its_number,
        policy::names_that_are_nearly_right_are_suggested,
        policy::list_and_schema_fit_together,
        scenario::the_shipped_ones_are_good,
        scenario::every_problem_is_shown_with_its_place,
        scenario::one_bad_file_does_not_hide_another,
        messages::what_is_typed_wrong_is_told_before_anything_is_done,
        messages::no_testbed_of_that_name_runs,
        messages::ending_a_testbed_that_is_not_there_is_no_failure,
        speak::a_reader_that_has_enough_is_no_failure,
        speak::a_full_disk_is_a_failure,
        speak::nobody_needs_to_listen_to_standard_error,
        hand::every_command_shows_its_example,
        hand::exit_codes_are_documented,
        hand::completions_know_every_command,
        hand::man_pages_are_complete_and_well_formed,
        hand::doctor_says_the_same_to_people_and_programs,
        unprivileged::the_testbed_is_refused_with_what_to_do,
        unprivileged::everything_else_works,
    ];
    e2e::run(e2e::Needs::Nothing, tests)
}
