-- What control does by itself. leader.py calls these, in the one process that leads.

-- Give devices to those in the queue whose turn it is, and return how many that are.
CREATE OR REPLACE FUNCTION serve_queue() RETURNS int
LANGUAGE plpgsql AS $$
DECLARE
    w reservation;
    served int := 0;
    wish text;
    failed text[] := '{}';
BEGIN
    PERFORM one_at_a_time();
    FOR w IN
        SELECT * FROM reservation WHERE status = 'queued'
        ORDER BY priority DESC, created_at, id FOR UPDATE
    LOOP
        EXIT WHEN NOT EXISTS (
            SELECT FROM device
            WHERE reservation IS NULL AND online AND status = 'available' AND NOT draining
        );
        -- What one of them cannot have now, those behind it who want the like cannot either.
        wish := (w.behaviour, w.wanted_devices, w.wanted_product, w.wanted_labels)::text;
        CONTINUE WHEN wish = ANY(failed);
        IF activate(w) THEN
            served := served + 1;
        ELSE
            failed := failed || wish;
        END IF;
    END LOOP;
    RETURN served;
END $$;

-- End every reservation whose lease is over, or that has waited for as long as it would.
CREATE OR REPLACE FUNCTION end_expired() RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    r reservation;
BEGIN
    FOR r IN
        SELECT * FROM reservation
        WHERE status <> 'ended'
          AND (status = 'active' AND expires_at <= now()
               OR status = 'queued' AND waits_until <= now())
        ORDER BY id FOR UPDATE
    LOOP
        PERFORM end_reservation(
            r, CASE r.status WHEN 'active' THEN 'expired' ELSE 'not_served' END, NULL
        );
    END LOOP;
END $$;

CREATE OR REPLACE FUNCTION warn_of_expiry() RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    r reservation;
BEGIN
    FOR r IN
        SELECT * FROM reservation
        WHERE status <> 'ended' AND status = 'active' AND warns_at <= now()
        ORDER BY id FOR UPDATE
    LOOP
        UPDATE reservation SET warns_at = NULL WHERE id = r.id;
        PERFORM record(
            r, 'expiring', NULL, NULL, NULL, NULL, to_jsonb(r.expires_at) #>> '{}'
        );
    END LOOP;
END $$;

-- End what a session reserved for as long as it lives.
CREATE OR REPLACE FUNCTION end_session(in_client text, in_session text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    r reservation;
BEGIN
    FOR r IN
        SELECT * FROM reservation
        WHERE status <> 'ended' AND client = in_client AND session = in_session
          AND on_session_end = 'release'
        ORDER BY id FOR UPDATE
    LOOP
        PERFORM end_reservation(r, 'session_gone', NULL);
    END LOOP;
END $$;

-- Take devices that broke, or that were away for too long, out of their reservations.
CREATE OR REPLACE FUNCTION lose_devices() RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    lost record;
    d device;
    r reservation;
BEGIN
    FOR lost IN
        SELECT held, trouble FROM device trouble JOIN reservation held ON held.id = reservation
        WHERE trouble.reservation IS NOT NULL
          AND (trouble.status = 'broken' OR trouble.away_since IS NOT NULL)
          AND (trouble.status = 'broken' OR trouble.away_since + held.device_grace <= now())
        ORDER BY held.id, trouble.agent, trouble.name FOR UPDATE
    LOOP
        r := lost.held;
        d := lost.trouble;
        PERFORM give_back(
            r, ARRAY[d.agent], ARRAY[d.name], 'device_lost',
            CASE WHEN d.status IN ('broken', 'gone') THEN d.status ELSE 'agent_gone' END,
            NULL, d.detail
        );
        IF NOT EXISTS (SELECT FROM allocation WHERE reservation = r.id AND ended_at IS NULL) THEN
            PERFORM end_reservation(r, 'devices_lost', NULL);
        END IF;
    END LOOP;
END $$;

-- Take the devices of agents that are drained out of their reservations when their time is over. What
-- an agent that is to be restarted had may go on when it is back.
CREATE OR REPLACE FUNCTION end_draining() RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    over record;
    r reservation;
BEGIN
    FOR over IN
        SELECT held, g.name AS agent, g.asked_by AS operator, a.devices
        FROM agent g
        JOIN LATERAL (
            SELECT reservation, array_agg(device ORDER BY device) AS devices FROM allocation
            WHERE agent = g.name AND ended_at IS NULL GROUP BY reservation
        ) a ON true
        JOIN reservation held ON held.id = a.reservation
        WHERE g.drains_until <= now() AND g.restarts IS NULL
        ORDER BY held.id, g.name FOR UPDATE OF held
    LOOP
        r := over.held;
        PERFORM give_back(
            r, array_fill(over.agent, ARRAY[cardinality(over.devices)]), over.devices,
            'device_lost', 'agent_drained', NULL, over.operator || ' drains its agent'
        );
        IF NOT EXISTS (SELECT FROM allocation WHERE reservation = r.id AND ended_at IS NULL) THEN
            PERFORM end_reservation(r, 'devices_lost', NULL);
        END IF;
    END LOOP;
END $$;

-- Seconds until one of these has something to do, if ever.
CREATE OR REPLACE FUNCTION seconds_to_next() RETURNS float
LANGUAGE sql STABLE AS $$
    SELECT extract(epoch FROM least(
        (SELECT min(CASE status
             WHEN 'active' THEN least(expires_at, warns_at) WHEN 'queued' THEN waits_until
         END)
         FROM reservation WHERE status <> 'ended'),
        (SELECT min(d.away_since + r.device_grace)
         FROM device d JOIN reservation r ON r.id = d.reservation
         WHERE d.reservation IS NOT NULL AND (d.status = 'broken' OR d.away_since IS NOT NULL)),
        (SELECT min(drains_until) FROM agent a
         WHERE drains_until IS NOT NULL AND restarts IS NULL
           AND EXISTS (SELECT FROM allocation WHERE agent = a.name AND ended_at IS NULL))
    ) - now())::float
$$;

-- All of it; seconds until there is something to do again, if ever.
CREATE OR REPLACE FUNCTION look_at_time() RETURNS float
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM end_expired();
    PERFORM warn_of_expiry();
    PERFORM lose_devices();
    PERFORM end_draining();
    -- An agent that is still away hears nothing of it any more.
    DELETE FROM command WHERE at < now() - interval '60 s';
    -- Far longer than an agent takes to come back to a broker that has lost its memory.
    DELETE FROM device
    WHERE status = 'gone' AND reservation IS NULL AND note IS NULL
      AND away_since < now() - interval '30 s';
    -- Far longer than any client repeats a request.
    DELETE FROM answer WHERE answered_at < now() - interval '10 min';
    RETURN seconds_to_next();
END $$;

-- The clock was set: let everything that is under way last as long as it would have.
CREATE OR REPLACE FUNCTION move_times(by interval) RETURNS void
LANGUAGE sql AS $$
    UPDATE reservation
    SET granted_at = granted_at + by, expires_at = expires_at + by, warns_at = warns_at + by,
        waits_until = waits_until + by
    WHERE status <> 'ended';
    UPDATE device SET away_since = away_since + by WHERE away_since IS NOT NULL;
    UPDATE agent SET asked_at = asked_at + by, drains_until = drains_until + by
    WHERE drains_until IS NOT NULL;
$$;
