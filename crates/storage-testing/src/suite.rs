//! The list of all cases, with the abilities that each needs.

/// Makes a test of every case for a [`Harness`](crate::Harness). To run several harnesses in one file, give each a
/// module of its own.
#[macro_export]
macro_rules! conformance {
    ($harness:ty) => {
        $crate::__conformance! { $harness;
            keys {
                a_key_of_another_resource_is_refused: [];
                a_scope_of_another_resource_is_refused: [Direct];
                the_root_of_the_resource_can_hold_an_object: [];
                keys_are_exact_and_independent: [];
                scopes_with_a_common_beginning_are_apart: [];
                names_inside_objects_are_not_compared: [];
            }
            create {
                a_new_object_is_stored_at_the_next_revision: [];
                an_object_with_a_revision_is_refused: [];
                a_key_that_is_taken_stays_as_it_is: [];
                stored_bytes_carry_no_revision: [Raw, Plain];
                equal_objects_are_stored_as_equal_bytes: [Raw, Plain];
                an_object_with_a_lifetime_expires: [Expiry];
                what_cannot_be_transformed_is_not_written: [Transform];
                what_is_no_object_of_the_kind_is_not_written: [];
                a_deleted_key_can_be_created_again: [];
                of_many_creators_of_one_key_one_wins: [];
                entries_carry_what_selectors_use: [];
            }
            get {
                the_latest_write_is_read: [];
                any_state_is_one_that_was_stored: [];
                any_state_of_a_backend_is_the_latest: [Direct];
                a_minimum_revision_is_a_lower_bound: [];
                a_future_revision_is_refused_before_the_key_is_looked_at: [];
                a_missing_key_is_not_found: [];
            }
            list {
                a_consistent_list_is_at_the_counter: [];
                any_state_of_a_backend_is_the_latest: [Direct];
                a_minimum_revision_is_a_lower_bound: [];
                every_state_of_a_history_can_be_listed: [];
                a_future_revision_is_refused: [];
                compacted_states_are_gone: [Direct, Compact];
                a_list_can_be_repeated_at_its_revision: [];
                writes_during_a_list_do_not_show_in_it: [];
                entries_come_in_key_order: [];
                a_list_of_one_key_has_one_entry_or_none: [];
                selectors_leave_out_what_does_not_match: [];
                selection_is_made_in_the_listed_state: [];
                what_was_stored_in_another_version_is_listed_in_that_of_the_kind: [Raw, Plain];
            }
            matrix {
                every_way_to_ask_for_a_list_is_answered: [];
            }
            paging {
                pages_follow_each_other: [];
                a_token_without_a_limit_brings_the_rest: [];
                writes_between_pages_do_not_show: [];
                a_selected_page_is_filled_with_matches: [];
                a_token_shows_the_state_of_its_revision: [];
                a_token_for_the_latest_state_goes_on_there: [];
                a_compacted_token_comes_back_as_one_for_the_latest_state: [Direct, Compact];
                a_rare_match_is_found_in_one_call: [];
                no_more_is_decoded_than_needed: [Direct, Transform];
                an_exact_list_pages_through_its_state: [];
                pages_of_a_namespace_stay_in_it: [];
                every_key_can_end_a_page: [];
            }
            update {
                an_update_stores_what_its_callback_returns: [];
                a_missing_object_is_not_updated: [];
                a_missing_object_is_created_when_asked_for: [];
                an_update_that_changes_nothing_writes_nothing: [];
                no_change_is_an_answer: [];
                an_update_may_remove_the_object: [];
                an_error_of_the_callback_comes_back: [];
                a_lost_race_runs_the_callback_again: [];
                an_object_deleted_during_an_update_is_not_found_or_made_again: [];
                many_writers_of_one_object_all_win_once: [];
                an_update_gives_up_at_its_deadline: [];
                a_stale_value_is_written_again: [Transform];
                another_encoding_alone_is_no_change: [Raw, Plain];
                another_stored_version_is_a_change: [Raw, Plain];
                preconditions_of_updates_are_checked_first: [];
                an_update_keeps_the_lifetime: [Expiry];
                an_update_of_a_suggestion_keeps_the_lifetime: [Expiry];
                an_update_may_give_a_lifetime: [Expiry];
                an_update_may_end_a_lifetime: [Expiry];
                a_new_lifetime_alone_is_a_change: [Expiry];
                the_same_lifetime_again_is_no_change: [Expiry];
                an_object_made_by_an_update_may_have_a_lifetime: [Expiry];
                preconditions_on_a_missing_object_compare_with_nothing: [];
            }
            suggestion {
                an_error_on_an_outdated_suggestion_does_not_count: [];
                an_outdated_suggestion_loses_the_race: [];
                a_suggestion_of_a_state_that_never_was_loses_the_race: [];
                preconditions_are_checked_on_the_current_state: [];
                nothing_changed_on_a_suggestion_is_not_believed: [];
                a_suggestion_whose_content_came_back_is_still_outdated: [];
                a_stale_value_is_written_again_despite_a_suggestion: [Transform];
                a_suggestion_of_a_deleted_object_is_not_found: [];
                a_suggestion_is_left_as_it_was: [];
                a_suggestion_of_an_unreadable_value_may_replace_it: [Transform];
                a_current_suggestion_deletes: [];
                an_outdated_suggestion_does_not_decide_a_delete: [];
                a_check_on_the_current_state_keeps_the_object: [];
                preconditions_of_a_delete_are_checked_on_the_current_state: [];
            }
            delete {
                a_deletion_answers_with_the_last_state: [];
                a_missing_object_is_not_deleted: [];
                a_check_can_keep_the_object: [];
                preconditions_of_deletes_are_checked_first: [];
                an_update_during_a_delete_is_checked_too: [];
                of_two_deletes_one_wins: [];
            }
            unreadable {
                an_unreadable_value_fails_what_touches_it: [Raw];
                a_list_can_include_unreadable_values: [Raw];
                a_list_names_what_it_cannot_read: [Raw];
                a_list_that_fails_on_its_way_names_the_value: [Raw];
                a_long_list_has_shown_pages_before_it_fails: [Direct, Raw];
                what_no_selector_can_look_at_is_not_left_out: [Raw, Plain];
                a_watch_delivers_unreadable_values_and_goes_on: [Raw];
                the_initial_state_has_unreadable_values: [Raw];
                an_unreadable_value_can_be_deleted_on_purpose: [Raw];
                a_readable_object_is_not_deleted_as_an_unreadable_one: [Raw];
                a_value_that_becomes_readable_stays: [Raw, Plain];
                a_value_copied_to_another_key_is_unreadable: [Raw, Encrypted];
                what_does_not_decrypt_is_unreadable: [Direct, Transform];
                what_cannot_be_decrypted_now_is_not_called_unreadable: [Direct, Transform];
                a_transformer_that_answers_later_keeps_the_order: [Transform];
            }
            watch {
                a_watch_shows_every_later_change_once: [];
                a_watch_from_now_shows_what_comes: [];
                an_initial_state_goes_over_into_changes: [];
                an_initial_state_is_not_older_than_asked: [];
                an_empty_scope_has_an_empty_initial_state: [];
                a_start_of_the_far_future_is_refused: [];
                a_start_that_is_a_little_ahead_is_waited_for: [];
                changes_in_and_out_of_a_selection: [];
                fields_select_changes: [];
                a_watch_of_one_key_shows_that_key: [];
                an_initial_state_survives_compaction: [Compact];
                a_compacted_start_is_refused: [Direct, Compact];
                a_watch_that_compaction_overtakes_skips_nothing: [Compact];
                a_dropped_watch_is_gone: [];
                idle_watches_delay_nobody: [];
                a_watch_is_open_before_anything_happens: [];
                progress_comes_when_asked_for: [Progress];
                no_progress_comes_unasked: [Progress];
                a_state_and_its_changes_make_every_later_state: [];
                nothing_is_lost_or_doubled_while_others_write: [];
            }
            counter {
                every_write_of_every_kind_takes_the_next_revision: [];
                reads_and_refused_writes_do_not_move_the_counter: [];
                a_fresh_store_is_at_a_revision: [];
                a_started_store_is_ready: [];
                statistics_count_one_kind: [];
                the_average_size_is_that_of_the_stored_bytes: [Direct, Raw];
                a_restart_keeps_objects_revisions_and_history: [Restart];
                dropped_calls_leave_nothing_behind: [];
            }
            history {
                random_histories_agree_with_a_map: [];
            }
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __conformance {
    ($harness:ty; $($group:ident { $($case:ident: [$($need:ident),*];)* })*) => {
        $(
            mod $group {
                #[allow(unused_imports, reason = "the harness may be named by a path")]
                use super::*;
                $(
                    #[test]
                    fn $case() {
                        $crate::run::<$harness, _>(
                            concat!(stringify!($group), "::", stringify!($case)),
                            &[$($crate::Ability::$need),*],
                            $crate::cases::$group::$case::<$harness>,
                        );
                    }
                )*
            }
        )*
    };
}
