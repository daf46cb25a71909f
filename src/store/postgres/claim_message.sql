-- One message that claims; see claim.sql. The following names are replaced by numbers: :places, :spare, :time_ms, :lock,
-- :node, :lease_micros, :suspect, :outside, :handed_out, :processor, :ordering, :second_line_first, :lower_bound,
-- :unseen_max, :slot. :stepped_around is replaced by an array of ids, :wanted by an array or null.
begin isolation level read committed;
set local statement_timeout = :time_ms;
set local lock_timeout = :time_ms;
select to_json(started) as started, texts, claimed, exhausted::int, running::int, last_order_id, oldest_running, transaction, next_due_in_micros,
    open_orders, stored_ordering, stored_processor, passed_first, passed_second, unseen, epoch_identity
from :claim(
    places => :places, claiming_node => :node, lease_micros => :lease_micros, takes_suspects => :suspect = 1,
    is_outside => :outside = 1, is_handed_out => :handed_out = 1, wanted => :wanted, known_processor => :processor,
    known_ordering => :ordering, second_first => :second_line_first, above => :lower_bound, spare => :spare,
    unseen_max => :unseen_max, counter_slot => :slot, claim_lock => :lock, stepped_around => :stepped_around);
commit
