//! A testbed runs and does what it should. As root, with the node image and TUN.

#![allow(unreachable_pub, reason = "a test binary has no outside; pub says what its modules use of each other")]

#[path = "../e2e/mod.rs"]
mod e2e;

mod bench;
mod carried;
mod checkpoints;
mod commands;
mod containers;
mod drive;
mod files;
mod host;
mod images;
mod migrate;
mod packets;
mod side_by_side;
mod starts;

use std::process::ExitCode;

fn main() -> ExitCode {
    let tests = e2e::tests![
        // The longest first.
        drive::the_car_is_followed_as_in_the_simulator,
        starts::a_workload_that_does_not_listen_is_told,
        migrate::a_hundred_times_back_and_forth_under_load_on_one_connection,
        commands::up_status_down,
        commands::a_second_one_of_the_same_name_is_refused,
        commands::of_two_that_come_up_at_once_one_is_refused,
        commands::requests_that_make_no_sense_are_refused_and_change_nothing,
        commands::the_control_socket_is_for_root_and_minds_its_manners,
        migrate::the_container_is_an_ordinary_one_of_its_new_node,
        migrate::a_foreign_service_moves_with_its_state_and_its_connections,
        migrate::a_connection_that_was_closed_before_the_move_is_not_reset,
        packets::clients_of_every_protocol_and_family_see_no_harm,
        packets::a_connection_by_ipv6_moves,
        packets::no_datagram_is_lost_and_none_is_overtaken,
        packets::what_a_service_has_not_read_comes_first,
        packets::what_a_service_has_not_read_it_has_once_after_a_cancelled_move,
        packets::what_a_stopped_service_had_not_read_waits_for_it,
        packets::a_services_sockets_are_listed_without_going_through_the_hosts,
        packets::no_ping_is_lost_and_nothing_is_unreachable,
        migrate::pre_copy_sends_memory_while_the_service_runs,
        migrate::the_journal_tells_of_each_migration,
        migrate::no_more_is_sent_than_the_bandwidth_allows,
        migrate::post_copy_lets_it_run_before_all_its_memory_is_there,
        migrate::two_workloads_pass_each_other,
        migrate::one_at_a_time,
        migrate::who_asked_may_go_away,
        side_by_side::two_testbeds_do_not_meet,
        side_by_side::the_one_that_ends_first_takes_nothing_from_the_other,
        starts::a_program_that_does_not_exist_is_told,
        starts::a_program_that_ends_at_once_is_quoted,
        starts::what_this_world_has_not_is_told_before_anything_is_made,
        containers::all_move_as_one_under_load_and_their_connections_stay,
        containers::a_stream_between_them_loses_no_byte,
        containers::one_that_cannot_be_dumped_rolls_all_back,
        containers::a_unix_socket_between_them_is_found_before_the_freeze,
        containers::a_named_pipe_between_them_is_found_before_the_freeze,
        containers::shared_memory_of_system_v_is_found_before_the_freeze,
        containers::a_checkpoint_has_all_of_them_and_the_connections_between_them,
        carried::what_criu_is_known_not_to_carry_is_refused_before_the_freeze,
        carried::a_deleted_file_too_big_to_carry_rolls_back,
        carried::ordinary_state_is_carried,
        checkpoints::copies_have_memory_and_files_as_they_were,
        checkpoints::the_service_runs_on_and_nothing_is_lost,
        checkpoints::what_was_stopped_comes_back_elsewhere_with_its_connections,
        checkpoints::what_was_stopped_comes_back_with_its_connections_closed,
        checkpoints::an_oci_image_is_restored,
        checkpoints::an_archive_as_the_kubelet_makes_it_is_restored,
        checkpoints::damage_restores_nothing,
        checkpoints::what_cannot_be_is_refused_and_changes_nothing,
        checkpoints::who_goes_away_leaves_no_half_of_a_file,
        bench::all_that_can_move_it_is_measured_beside_each_other,
        bench::a_document_without_a_place_for_the_tables_is_told_before_anything_is_moved,
        files::what_it_writes_moves_with_it_there_and_back,
        files::a_checkpoint_has_all_of_it,
        files::a_target_without_room_for_its_files_is_told_and_takes_them_later,
        files::a_move_that_is_rolled_back_in_its_freeze_loses_nothing,
        images::a_workload_has_what_its_image_and_the_scenario_say,
        images::a_tar_is_unpacked_and_moves,
        images::an_image_that_is_none_is_told_before_anything_is_made,
        host::no_tun,
        host::no_util_linux,
        host::links_by_netem,
        host::no_node_image,
        host::a_node_image_without_criu,
        host::a_node_image_with_an_old_criu,
    ];
    e2e::run(e2e::Needs::Testbed, tests)
}
