-- The epochs of the store, oldest first. There are few.
select epoch, identity, secret, first_order_id, after_position, began_at from orderly.epochs order by epoch
