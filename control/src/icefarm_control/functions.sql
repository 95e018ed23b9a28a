-- What is done with reservations. Each function is one step, called in one transaction by requests.py
-- (what clients ask for) or leader.py (what time brings). They are replaced at every start of control,
-- so they belong to the program, not to the data.
--
-- Every step is recorded as a transition, and whoever leads is notified of it.

-- Whether a device is what a reservation asks for, free or not.
CREATE OR REPLACE FUNCTION fits(d device, r reservation) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
    SELECT r.behaviour = ANY(d.behaviours)
       AND (r.wanted_devices IS NULL OR d.name = ANY(r.wanted_devices))
       AND (r.wanted_product IS NULL OR d.product = r.wanted_product)
       AND d.labels @> r.wanted_labels
$$;

CREATE OR REPLACE FUNCTION record(
    of reservation, what text, why text, by text, agents text[], devices text[],
    detail text DEFAULT NULL
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO transition (at, reservation, client, session, what, why, by, agents, devices, detail)
    VALUES (clock_timestamp(), of.id, of.client, of.session, what, why, by,
            coalesce(agents, '{}'), coalesce(devices, '{}'), detail);
    PERFORM pg_notify('transition', '');
END $$;

-- A reservation as clients see it: icefarm_schemas.ReservationState.
CREATE OR REPLACE FUNCTION state_of(wanted text) RETURNS jsonb
LANGUAGE sql STABLE AS $$
    SELECT jsonb_strip_nulls(jsonb_build_object(
        'reservation', r.id, 'status', r.status, 'client', r.client, 'session', r.session,
        'behaviour', r.behaviour, 'created_at', r.created_at, 'expires_at', r.expires_at,
        'reason', r.end_reason,
        'waits_until', CASE WHEN r.status = 'queued' THEN r.waits_until END,
        'position', CASE WHEN r.status = 'queued' THEN (
            SELECT count(*) FROM reservation q
            WHERE q.status = 'queued'
              AND (-q.priority, q.created_at, q.id) <= (-r.priority, r.created_at, r.id)
        ) END,
        'devices', coalesce((
            SELECT jsonb_agg(jsonb_build_object(
                'agent', a.agent, 'device', a.device, 'behaviour', a.behaviour
            ) ORDER BY a.agent, a.device)
            FROM allocation a
            WHERE a.reservation = r.id
              AND (a.ended_at IS NULL OR r.status = 'ended' AND a.ended_at = r.ended_at)
        ), '[]')
    ))
    FROM reservation r WHERE r.id = wanted
$$;

-- What the devices of a reservation should do, by agent and device: icefarm_schemas.Assignment.
CREATE OR REPLACE FUNCTION assignments_of(wanted text) RETURNS jsonb
LANGUAGE sql STABLE AS $$
    SELECT coalesce(jsonb_agg(jsonb_build_object(
        'agent', a.agent, 'device', a.device, 'assignment', jsonb_build_object(
            'reservation', r.id, 'client', r.client, 'session', r.session,
            'behaviour', a.behaviour, 'arguments', a.arguments,
            'granted_at', r.granted_at, 'expires_at', r.expires_at
        )
    )), '[]')
    FROM allocation a JOIN reservation r ON r.id = a.reservation
    WHERE a.reservation = wanted AND a.ended_at IS NULL
$$;

-- When the holder of a lease of this length is warned: when a fifth of it is left, or five minutes.
CREATE OR REPLACE FUNCTION warning_of(duration interval) RETURNS timestamptz
LANGUAGE sql STABLE AS $$ SELECT now() + duration - least(duration / 5, interval '5 min') $$;

-- Give a reservation all its devices and begin its lease, or do nothing and return false.
--
-- Those that are further ahead in the queue come first: a device that one of them could use is not
-- given to anybody behind it. So a later request overtakes only with devices that are of no use to an
-- earlier one, cannot delay it, and nobody starves.
CREATE OR REPLACE FUNCTION activate(w reservation) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    agents text[];
    names text[];
BEGIN
    SELECT array_agg(agent), array_agg(name) INTO agents, names FROM (
        SELECT d.agent, d.name FROM device d
        WHERE d.reservation IS NULL AND d.online AND d.status = 'available' AND fits(d, w)
          AND NOT EXISTS (
              SELECT FROM reservation q
              WHERE q.status = 'queued' AND fits(d, q)
                AND (-q.priority, q.created_at, q.id) < (-w.priority, w.created_at, w.id)
          )
          -- Of boards of one name, as after a move from one agent to another, only one counts.
          AND (w.wanted_devices IS NULL OR NOT EXISTS (
              SELECT FROM device e
              WHERE e.name = d.name AND e.agent < d.agent
                AND e.reservation IS NULL AND e.online AND e.status = 'available'
          ))
        ORDER BY d.agent, d.name
        LIMIT w.wanted_count
        FOR UPDATE OF d
    ) AS free;
    IF coalesce(cardinality(names), 0) < w.wanted_count THEN
        RETURN false;
    END IF;
    w.status := 'active';
    w.granted_at := now();
    w.expires_at := now() + w.duration;
    w.warns_at := warning_of(w.duration);
    INSERT INTO reservation SELECT w.*
    ON CONFLICT (id) DO UPDATE
    SET status = w.status, granted_at = w.granted_at, expires_at = w.expires_at,
        warns_at = w.warns_at;
    INSERT INTO allocation (reservation, agent, device, behaviour, arguments, started_at)
    SELECT w.id, agent, name, w.behaviour, w.arguments, now()
    FROM unnest(agents, names) AS taken (agent, name);
    UPDATE device SET reservation = w.id
    FROM unnest(agents, names) AS taken (agent, name)
    WHERE device.agent = taken.agent AND device.name = taken.name;
    PERFORM record(w, 'active', NULL, w.client, agents, names);
    RETURN true;
END $$;

-- Decisions about who gets what are made one after the other, so that each sees those before it.
CREATE OR REPLACE FUNCTION one_at_a_time() RETURNS void
LANGUAGE sql AS $$ SELECT pg_advisory_xact_lock(1229145427) $$;

-- Reserve, or queue when the request waits and could be served some day; else NULL.
CREATE OR REPLACE FUNCTION reserve(
    new_id text, in_client text, in_session text, request jsonb
) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    w reservation;
BEGIN
    PERFORM one_at_a_time();
    w.id := new_id;
    w.client := in_client;
    w.session := in_session;
    w.behaviour := request->>'behaviour';
    w.arguments := request->'arguments';
    w.on_session_end := request->>'on_session_end';
    w.wanted_devices := CASE WHEN request ? 'devices' THEN
        ARRAY(SELECT jsonb_array_elements_text(request->'devices')) END;
    w.wanted_count := coalesce((request->>'count')::int, cardinality(w.wanted_devices));
    w.wanted_product := request->>'product';
    w.wanted_labels := request->'labels';
    w.device_grace := make_interval(secs => (request->>'device_grace')::float);
    w.duration := make_interval(secs => (request->>'duration')::float);
    w.priority := (request->>'priority')::int;
    w.status := 'queued';
    -- Not now(): requests that are served in one transaction have come one after the other.
    w.created_at := clock_timestamp();
    w.waits_until := now() + make_interval(secs => (request->>'wait')::float);
    IF activate(w) THEN
        RETURN ARRAY[w.id];
    END IF;
    -- One that the farm could never serve would keep everybody behind it waiting.
    IF w.waits_until IS NULL
       OR (SELECT count(DISTINCT d.name) FROM device d WHERE fits(d, w)) < w.wanted_count THEN
        RETURN NULL;
    END IF;
    INSERT INTO reservation SELECT w.*;
    PERFORM record(w, 'queued', NULL, w.client, NULL, NULL);
    RETURN ARRAY[w.id];
END $$;

-- Give devices to those in the queue whose turn it is, and return how many that are.
CREATE OR REPLACE FUNCTION serve_queue() RETURNS int
LANGUAGE plpgsql AS $$
DECLARE
    w reservation;
    served int := 0;
BEGIN
    PERFORM one_at_a_time();
    FOR w IN
        SELECT * FROM reservation WHERE status = 'queued'
        ORDER BY priority DESC, created_at, id FOR UPDATE
    LOOP
        EXIT WHEN NOT EXISTS (
            SELECT FROM device WHERE reservation IS NULL AND online AND status = 'available'
        );
        served := served + activate(w)::int;
    END LOOP;
    RETURN served;
END $$;

-- Take devices out of a reservation, which ends with the last of them.
CREATE OR REPLACE FUNCTION give_back(
    r reservation, out_agents text[], out_devices text[], what text, reason text, by text,
    detail text DEFAULT NULL
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE allocation a SET ended_at = now()
    FROM unnest(out_agents, out_devices) AS given (agent, name)
    WHERE a.reservation = r.id AND a.ended_at IS NULL
      AND a.agent = given.agent AND a.device = given.name;
    UPDATE device d SET reservation = NULL
    FROM unnest(out_agents, out_devices) AS given (agent, name)
    WHERE d.reservation = r.id AND d.agent = given.agent AND d.name = given.name;
    -- A device that went away while it was held was kept until now.
    DELETE FROM device d USING unnest(out_agents, out_devices) AS given (agent, name)
    WHERE d.agent = given.agent AND d.name = given.name
      AND d.reservation IS NULL AND d.status = 'gone';
    PERFORM record(r, what, reason, by, out_agents, out_devices, detail);
END $$;

CREATE OR REPLACE FUNCTION end_reservation(r reservation, reason text, by text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    agents text[];
    names text[];
BEGIN
    SELECT array_agg(agent ORDER BY agent, device), array_agg(device ORDER BY agent, device)
    INTO agents, names FROM allocation WHERE reservation = r.id AND ended_at IS NULL;
    UPDATE reservation SET status = 'ended', ended_at = now(), end_reason = reason
    WHERE id = r.id;
    PERFORM give_back(r, agents, names, 'ended', reason, by);
END $$;

-- A JSON array of strings.
CREATE OR REPLACE FUNCTION texts(list jsonb) RETURNS text[]
LANGUAGE sql IMMUTABLE AS $$ SELECT ARRAY(SELECT jsonb_array_elements_text(list)) $$;

-- The live reservations that a request selects, locked; NULL when one that is named is not there.
CREATE OR REPLACE FUNCTION selected(
    in_client text, request jsonb, with_queued boolean
) RETURNS reservation[] LANGUAGE plpgsql AS $$
DECLARE
    named text[] := texts(request->'reservations');
    named_devices text[] := texts(request->'devices');
    ids text[] := named;
    found reservation[];
BEGIN
    IF request ? 'devices' THEN
        ids := ARRAY(
            SELECT reservation FROM allocation WHERE ended_at IS NULL AND device = ANY(named_devices)
        );
    ELSIF NOT request ? 'reservations' THEN
        ids := ARRAY(SELECT id FROM reservation WHERE client = in_client AND status <> 'ended');
    END IF;
    found := ARRAY(
        SELECT r FROM reservation r
        WHERE id = ANY(ids) AND client = in_client
          AND (status = 'active' OR status = 'queued' AND with_queued)
        ORDER BY id
        FOR UPDATE
    );
    IF cardinality(found) < cardinality(named) THEN
        RETURN NULL;
    END IF;
    IF cardinality(named_devices) > (
        SELECT count(DISTINCT a.device) FROM unnest(found) r JOIN allocation a ON a.reservation = r.id
        WHERE a.ended_at IS NULL AND a.device = ANY(named_devices)
    ) THEN
        RETURN NULL;
    END IF;
    RETURN found;
END $$;

-- Of the devices of a reservation, those that a request names, or all.
CREATE OR REPLACE FUNCTION selected_devices(r reservation, request jsonb) RETURNS SETOF allocation
LANGUAGE sql AS $$
    SELECT * FROM allocation a
    WHERE a.reservation = r.id AND a.ended_at IS NULL
      AND (NOT request ? 'devices' OR request->'devices' ? a.device)
    ORDER BY agent, device
$$;

CREATE OR REPLACE FUNCTION release(in_client text, request jsonb) RETURNS text[]
LANGUAGE plpgsql AS $$
DECLARE
    found reservation[] := selected(in_client, request, with_queued => true);
    r reservation;
    agents text[];
    names text[];
BEGIN
    IF found IS NULL THEN
        RETURN NULL;
    END IF;
    FOREACH r IN ARRAY found LOOP
        SELECT array_agg(agent), array_agg(device) INTO agents, names
        FROM selected_devices(r, request);
        IF cardinality(names) < (
            SELECT count(*) FROM allocation WHERE reservation = r.id AND ended_at IS NULL
        ) THEN
            PERFORM give_back(r, agents, names, 'returned', NULL, in_client);
        ELSE
            PERFORM end_reservation(r, 'released', in_client);
        END IF;
    END LOOP;
    RETURN ARRAY(SELECT id FROM unnest(found));
END $$;

-- A lease begins with the devices, so what is queued cannot be extended.
CREATE OR REPLACE FUNCTION extend(in_client text, request jsonb) RETURNS text[]
LANGUAGE plpgsql AS $$
DECLARE
    found reservation[] := selected(in_client, request, with_queued => false);
    longer interval := make_interval(secs => (request->>'duration')::float);
    r reservation;
BEGIN
    IF found IS NULL THEN
        RETURN NULL;
    END IF;
    FOREACH r IN ARRAY found LOOP
        UPDATE reservation
        SET granted_at = now(), expires_at = now() + longer, warns_at = warning_of(longer)
        WHERE id = r.id;
        PERFORM record(r, 'extended', NULL, in_client, NULL, NULL);
    END LOOP;
    RETURN ARRAY(SELECT id FROM unnest(found));
END $$;

CREATE OR REPLACE FUNCTION change(in_client text, request jsonb) RETURNS text[]
LANGUAGE plpgsql AS $$
DECLARE
    found reservation[] := selected(in_client, request, with_queued => false);
    r reservation;
    in_agents text[];
    in_devices text[];
BEGIN
    IF found IS NULL OR EXISTS (
        SELECT FROM unnest(found) f, selected_devices(f, request) a
        JOIN device d ON d.agent = a.agent AND d.name = a.device
        WHERE NOT request->>'behaviour' = ANY(d.behaviours)
    ) THEN
        RETURN NULL;
    END IF;
    FOREACH r IN ARRAY found LOOP
        SELECT array_agg(agent), array_agg(device) INTO in_agents, in_devices
        FROM selected_devices(r, request);
        UPDATE allocation a SET behaviour = request->>'behaviour', arguments = request->'arguments'
        FROM selected_devices(r, request) s
        WHERE a.reservation = r.id AND a.agent = s.agent AND a.device = s.device;
        IF NOT request ? 'devices' THEN
            UPDATE reservation
            SET behaviour = request->>'behaviour', arguments = request->'arguments'
            WHERE id = r.id;
        END IF;
        PERFORM record(r, 'changed', request->>'behaviour', in_client, in_agents, in_devices);
    END LOOP;
    RETURN ARRAY(SELECT id FROM unnest(found));
END $$;

CREATE OR REPLACE FUNCTION take_over(in_client text, in_session text, request jsonb) RETURNS text[]
LANGUAGE plpgsql AS $$
DECLARE
    found reservation[] := selected(in_client, request, with_queued => true);
    r reservation;
BEGIN
    IF found IS NULL THEN
        RETURN NULL;
    END IF;
    FOREACH r IN ARRAY found LOOP
        UPDATE reservation SET session = in_session WHERE id = r.id;
        PERFORM record(r, 'taken_over', in_session, in_client, NULL, NULL);
    END LOOP;
    RETURN ARRAY(SELECT id FROM unnest(found));
END $$;

-- Carry out a request, once: a request that comes again gets the answer that it got before.
-- The answer is an icefarm_schemas.Reply; NULL when the request cannot be served, and nothing is done.
CREATE OR REPLACE FUNCTION carry_out(
    in_client text, in_session text, in_correlation bytea, operation text, new_id text, request jsonb
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    reply jsonb;
    ids text[];
BEGIN
    SELECT a.reply INTO reply FROM answer a
    WHERE client = in_client AND session = in_session AND correlation = in_correlation;
    IF FOUND THEN
        RETURN reply;
    END IF;
    ids := CASE operation
        WHEN 'reserve' THEN reserve(new_id, in_client, in_session, request)
        WHEN 'extend' THEN extend(in_client, request)
        WHEN 'release' THEN release(in_client, request)
        WHEN 'change' THEN change(in_client, request)
        WHEN 'take_over' THEN take_over(in_client, in_session, request)
    END;
    IF ids IS NULL THEN
        RETURN NULL;
    END IF;
    reply := jsonb_build_object('reservations', coalesce(
        (SELECT jsonb_agg(state_of(id)) FROM unnest(ids) AS id), '[]'
    ));
    INSERT INTO answer (client, session, correlation, reply, answered_at)
    VALUES (in_client, in_session, in_correlation, reply, now());
    RETURN reply;
END $$;

-- What time brings -------------------------------------------------------------------------------

-- End every reservation whose lease is over, or that has waited for as long as it would.
CREATE OR REPLACE FUNCTION end_expired() RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    r reservation;
BEGIN
    FOR r IN
        SELECT * FROM reservation
        WHERE status = 'active' AND expires_at <= now() OR status = 'queued' AND waits_until <= now()
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
        SELECT * FROM reservation WHERE status = 'active' AND warns_at <= now()
        ORDER BY id FOR UPDATE
    LOOP
        UPDATE reservation SET warns_at = NULL WHERE id = r.id;
        PERFORM record(r, 'expiring', NULL, NULL, NULL, NULL);
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

-- Seconds until one of these has something to do, if ever.
CREATE OR REPLACE FUNCTION seconds_to_next() RETURNS float
LANGUAGE sql STABLE AS $$
    SELECT extract(epoch FROM least(
        (SELECT min(expires_at) FROM reservation WHERE status = 'active'),
        (SELECT min(warns_at) FROM reservation WHERE status = 'active'),
        (SELECT min(waits_until) FROM reservation WHERE status = 'queued'),
        (SELECT min(d.away_since + r.device_grace)
         FROM device d JOIN reservation r ON r.id = d.reservation
         WHERE d.reservation IS NOT NULL AND (d.status = 'broken' OR d.away_since IS NOT NULL))
    ) - now())::float
$$;

-- All of it; seconds until there is something to do again, if ever.
CREATE OR REPLACE FUNCTION look_at_time() RETURNS float
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM end_expired();
    PERFORM warn_of_expiry();
    PERFORM lose_devices();
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
$$;
