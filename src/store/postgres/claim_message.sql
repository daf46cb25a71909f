-- One message that claims, so that a node that freezes anywhere never holds the lock: see claim.sql. :places, :spare,
-- :time_ms, :lock, :node, :lease_micros, :suspect, :outside, :handed_out, :processor, :ordering, :second_line_first, :floor,
-- :unseen_max, :slot are numbers put into the text, :stepped_around is an array of them, :wanted as well or null.
begin isolation level read committed;
set local statement_timeout = :time_ms;
set local lock_timeout = :time_ms;
select to_json(started) as started, texts, claimed, exhausted::int, running::int, last_order_id, oldest_running, transaction, next_due_in_micros,
    open_orders, stored_ordering, stored_processor, passed_first, passed_second, unseen, epoch_identity
from :claim(
    places => :places, claiming_node => :node, lease_micros => :lease_micros, takes_suspects => :suspect = 1,
    is_outside => :outside = 1, is_handed_out => :handed_out = 1, wanted => :wanted, known_processor => :processor,
    known_ordering => :ordering, second_first => :second_line_first, above => :floor, spare => :spare,
    unseen_max => :unseen_max, counter_slot => :slot, claim_lock => :lock, stepped_around => :stepped_around);
commit
