//! The contract of the session store: one suite, run against the embedded store and against a real Redis. With
//! `MCP_TEST_REDIS=cluster` that is a Redis Cluster of three primaries.
//!
//! Each test of `contract/` takes a [`contract::Backend`] and is listed once below. What only Redis promises (names and
//! lives of keys, faults of the link) stands in `contract/redis_only.rs`.

#![allow(clippy::unwrap_used)]

mod contract;
#[path = "harness/redis_cluster.rs"]
#[allow(dead_code, reason = "each test binary uses its part of the harness")]
mod redis_cluster;
#[path = "harness/redis_server.rs"]
mod redis_server;

macro_rules! contract {
    ($($file:ident { $($test:ident)+ })+) => {
        mod memory {
            $($(
                #[tokio::test]
                async fn $test() {
                    crate::contract::$file::$test(crate::contract::Backend::memory()).await;
                }
            )+)+
        }
        mod redis {
            $($(
                #[tokio::test]
                async fn $test() {
                    crate::contract::$file::$test(crate::contract::Backend::shared().await).await;
                }
            )+)+
        }
    };
}

contract! {
    accept {
        the_owner_with_an_open_link_forwards_in_the_same_step
        another_instance_journals_and_wakes_the_owner
        a_message_for_a_dead_owner_finds_no_listener
        the_owner_without_an_open_link_journals_for_itself
        a_message_behind_unclaimed_ones_is_never_forwarded_directly
        a_refused_message_leaves_nothing_behind
        a_post_tried_again_is_journaled_once_before_and_after_its_answer
        a_pending_id_is_a_duplicate_and_an_answered_id_is_free_again
        another_request_with_a_pending_id_is_told_apart_from_the_same_one
        a_request_whose_client_was_told_an_error_has_no_answer
        a_post_that_repeats_a_pending_request_is_known_after_the_answer
        a_post_that_is_forgotten_makes_way_for_another_of_its_name
        the_last_256_posts_are_remembered
        the_caps_count_requests_without_an_answer_and_unclaimed_entries
        the_cap_in_bytes_counts_bodies_until_they_are_answered
        fields_change_in_the_step_that_journals
        a_forwarded_notification_stays_until_it_is_acked
        parallel_messages_are_claimed_in_the_order_they_were_accepted
    }
    binding {
        to_others_a_session_does_not_exist
        a_session_asks_for_no_less_than_it_was_used_with
        a_session_of_nobody_is_no_principals
    }
    calls {
        of_many_who_begin_one_call_one_does
        the_first_word_on_a_call_stands
        a_call_is_forgotten_when_its_time_is_over
    }
    claim {
        entries_come_in_order_and_once
        what_an_owner_has_missed_is_handed_out_again_until_it_is_acked_or_answered
        what_is_not_claimed_was_not_missed
        what_is_urgent_is_handed_out_unclaimed
        a_cancel_marks_its_request_until_that_is_gone
        a_place_in_a_trace_stays_with_its_request_until_that_is_gone
        a_claim_of_nothing_takes_nothing_and_tells_that_more_waits
        a_forgotten_request_is_neither_pending_nor_handed_out
        a_session_the_store_lost_is_written_again_with_its_open_requests
        a_hint_reaches_living_sessions_only
        a_claimed_request_is_forwarded_and_keeps_its_body
        what_was_answered_in_the_inbox_is_not_handed_out
        a_claim_tells_who_holds_the_streams
        acked_entries_are_gone_for_an_adopter
        a_request_acked_after_adoption_counts_as_forwarded
        an_ack_beyond_what_was_claimed_drops_nothing_unclaimed
        marking_forwarded_moves_the_body_and_leaves_other_ids_alone
    }
    append {
        sequences_are_contiguous_in_each_stream
        an_answer_is_appended_only_once
        an_answer_nobody_waits_for_uses_no_sequence_and_sets_nothing
        the_same_append_again_writes_nothing_and_says_the_same
        an_older_append_than_the_last_is_refused
        a_new_generation_counts_its_appends_anew
        changes_of_one_append_apply_in_order
        another_process_that_holds_the_stream_is_woken
        the_log_is_trimmed_by_count
        what_is_trimmed_is_known_by_the_stream_that_showed_it
        the_log_is_trimmed_by_bytes
        the_log_is_trimmed_by_age
        the_newest_event_is_kept_whatever_its_size
        a_body_of_four_mebibytes_survives
        bodies_may_hold_any_bytes
        two_owners_racing_for_an_answer_append_it_once
    }
    rates {
        a_burst_passes_and_then_one_at_a_time
        so_many_calls_are_under_way_and_no_more
        calls_that_nobody_keeps_are_over
    }
    page {
        a_page_starts_after_the_cursor
        a_page_is_bounded_by_count_and_bytes_but_never_empty
        a_stream_without_events_says_where_it_would_start
        a_missing_session_has_no_pages
        pages_together_are_the_whole_log
    }
    operators {
        each_instance_sees_what_all_tell
        a_process_hears_that_it_shall_drain_and_its_successor_does_not
        what_was_told_is_forgotten_in_time
        all_processes_hear_which_sessions_somebody_asks_about
    }
    ownership {
        adoption_raises_the_generation_and_hands_everything_over
        adoption_from_the_wrong_owner_is_lost
        an_owner_whose_lease_lives_is_not_replaced
        a_lease_that_has_run_out_protects_nobody
        a_released_session_is_adopted_although_its_former_owner_lives
        an_owner_adopts_from_itself_whatever_its_lease
        of_sixteen_adopters_exactly_one_wins
        every_write_of_a_former_owner_is_refused
        a_released_session_is_adopted_from_nobody
        nobody_can_show_the_fence_of_a_released_session
        release_wakes_other_holders
        updates_set_and_delete_fields
        a_missing_session_is_not_found_by_any_operation
    }
    older {
        an_owner_that_knows_more_is_told_that_the_data_are_older
        a_session_whose_data_are_older_is_written_again
        older_data_of_another_owner_are_written_again_by_the_later_one
        what_an_owner_of_older_data_has_missed_stays
        requests_of_which_nobody_knows_whether_they_ran_are_named
    }
    attachment {
        the_last_attachment_holds_the_stream
        a_late_detach_cannot_remove_a_newer_attachment
        attaching_elsewhere_wakes_the_owner_and_the_former_holder
        attaching_again_counts_once
    }
    client {
        a_stream_is_listed_where_it_is_shown_and_then_as_left
        a_late_note_of_an_end_does_not_hide_a_stream_that_is_shown
        what_is_listed_is_bounded_for_each_process
        a_renewed_session_has_a_new_life_and_nothing_of_the_old_one
    }
    life {
        a_new_session_has_its_fields_and_is_never_overwritten
        a_session_dies_when_its_time_is_over
        a_touch_extends_the_life_of_everything
        a_purge_removes_a_session_and_wakes_those_concerned
        sessions_can_be_listed
        the_index_follows_the_owner
        the_index_forgets_sessions_that_expired
    }
    instance {
        an_instance_id_belongs_to_one_living_process
        a_lease_runs_out_and_can_be_had_again
        instances_are_those_with_a_living_lease
        each_living_lease_says_how_long_it_holds
        only_dead_instances_are_forgotten
        a_lease_is_given_up_only_by_its_holder
        who_has_given_a_lease_up_is_remembered_until_the_next_does
    }
    streams {
        each_stream_has_its_log_its_holder_and_its_counters
        what_an_owner_knows_of_a_log_is_of_the_stream_it_names
        the_number_of_an_append_counts_over_all_streams
        a_session_that_begins_anew_begins_all_its_streams_anew
        a_stream_shows_its_own_events_of_the_log_and_the_places_of_others
        who_shows_a_request_is_woken_by_its_answer_which_ends_that
        the_latest_try_of_a_request_shows_its_answer
    }
    wake {
        a_wake_up_reaches_its_process_only
        wake_ups_that_do_not_fit_become_one_for_all
        a_receiver_that_is_gone_is_no_listener
    }
}
