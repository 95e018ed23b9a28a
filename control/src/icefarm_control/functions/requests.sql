-- What clients ask for. requests.py calls `carry_out`, once for each request; NULL is a refusal, and
-- then nothing has been done: refusals.py finds out why.

-- A JSON array of strings.
CREATE OR REPLACE FUNCTION texts(list jsonb) RETURNS text[]
LANGUAGE sql IMMUTABLE AS $$ SELECT ARRAY(SELECT jsonb_array_elements_text(list)) $$;

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
    w.wanted_devices := CASE WHEN request ? 'devices' THEN texts(request->'devices') END;
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
       OR (
           SELECT count(DISTINCT d.name) FROM device d
           -- One that is kept for its note may never come back.
           WHERE fits(d, w) AND (d.status <> 'gone' OR d.away_since > now() - interval '30 s')
       ) < w.wanted_count THEN
        RETURN NULL;
    END IF;
    INSERT INTO reservation SELECT w.*;
    PERFORM record(w, 'queued', NULL, w.client, NULL, NULL);
    RETURN ARRAY[w.id];
END $$;

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
        UPDATE allocation a
        SET behaviour = request->>'behaviour', arguments = request->'arguments',
            generation = a.generation + CASE
                WHEN a.behaviour = request->>'behaviour' AND a.arguments = request->'arguments'
                THEN 0 ELSE 1 END
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
