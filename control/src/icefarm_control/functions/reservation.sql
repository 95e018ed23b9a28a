-- A reservation: what it fits, how it is seen, how it begins and ends.
--
-- These functions are what control does in the database: reservation.sql for all of it, requests.sql
-- for what clients ask, operators.sql for what operators do, leading.sql for what time brings. They are replaced at every start of
-- control, so they belong to the program, not to the data; one whose arguments or result are to be
-- others is dropped by a migration first. Each step that is taken is recorded as a
-- transition, which whoever leads will tell.

-- Whether a device is what a reservation asks for, free or not.
CREATE OR REPLACE FUNCTION fits(d device, r reservation) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
    SELECT r.behaviour = ANY(d.behaviours)
       AND (r.wanted_devices IS NULL OR d.name = ANY(r.wanted_devices))
       AND (r.wanted_product IS NULL OR d.product = r.wanted_product)
       AND d.labels @> r.wanted_labels
$$;

-- Whether a device can be given to somebody now.
CREATE OR REPLACE FUNCTION is_free(d device) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
    SELECT d.reservation IS NULL AND d.online AND d.status = 'available' AND NOT d.draining
$$;

CREATE OR REPLACE FUNCTION record(
    of reservation, what text, why text, by text, agents text[], devices text[],
    detail text DEFAULT NULL
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO transition (at, reservation, client, session, what, why, by, agents, devices, detail)
    VALUES (clock_timestamp(), of.id, of.client, of.session, what, why, by,
            coalesce(agents, '{}'), coalesce(devices, '{}'), detail);
END $$;

-- A reservation as clients see it: icefarm_schemas.ReservationState; with its place in the queue, where
-- the caller has counted it already.
CREATE OR REPLACE FUNCTION state_of(wanted text, place bigint DEFAULT NULL) RETURNS jsonb
LANGUAGE sql STABLE AS $$
    SELECT jsonb_strip_nulls(jsonb_build_object(
        'reservation', r.id, 'status', r.status, 'client', r.client, 'session', r.session,
        'behaviour', r.behaviour, 'created_at', r.created_at, 'expires_at', r.expires_at,
        'reason', r.end_reason,
        'waits_until', CASE WHEN r.status = 'queued' THEN r.waits_until END,
        'position', CASE WHEN r.status = 'queued' THEN coalesce(place, (
            SELECT count(*) FROM reservation q
            WHERE q.status = 'queued'
              AND (-q.priority, q.created_at, q.id) <= (-r.priority, r.created_at, r.id)
        )) END,
        'devices', coalesce((
            SELECT jsonb_agg(jsonb_build_object(
                'agent', a.agent, 'device', a.device, 'behaviour', a.behaviour,
                'generation', a.generation
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
            'behaviour', a.behaviour, 'arguments', a.arguments, 'generation', a.generation,
            'granted_at', r.granted_at, 'expires_at', r.expires_at
        )
    )), '[]')
    FROM allocation a JOIN reservation r ON r.id = a.reservation
    WHERE a.reservation = wanted AND a.ended_at IS NULL
$$;

-- When the holder of a lease of this length is warned: when a fifth of it is left, or five minutes.
CREATE OR REPLACE FUNCTION warning_of(duration interval) RETURNS timestamptz
LANGUAGE sql STABLE AS $$ SELECT now() + duration - least(duration / 5, interval '5 min') $$;

-- Decisions about who gets what are made one after the other, so that each sees those before it.
CREATE OR REPLACE FUNCTION one_at_a_time() RETURNS void
LANGUAGE sql AS $$ SELECT pg_advisory_xact_lock(1229145427) $$;

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
        WHERE is_free(d) AND fits(d, w)
          AND NOT EXISTS (
              SELECT FROM reservation q
              WHERE q.status = 'queued' AND fits(d, q)
                AND (-q.priority, q.created_at, q.id) < (-w.priority, w.created_at, w.id)
          )
          -- Of boards of one name, as after a move from one agent to another, only one counts.
          AND (w.wanted_devices IS NULL OR NOT EXISTS (
              SELECT FROM device e
              WHERE e.name = d.name AND e.agent < d.agent AND is_free(e)
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
      AND d.reservation IS NULL AND d.status = 'gone' AND d.note IS NULL;
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
