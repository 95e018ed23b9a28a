-- What operators do with everybody's boards. operators.py calls these, after it has seen that what is
-- named is there; what it has done wakes the leader by a notice that comes with the commit.

-- Whether the devices of an agent are given to nobody: by its own word, or by an operator's.
CREATE OR REPLACE FUNCTION drains(a agent) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$ SELECT a.drains_until IS NOT NULL OR a.status = 'draining' $$;

-- Whether a name means a device: its own, or that of its agent and its own.
CREATE OR REPLACE FUNCTION is_named(agent text, device text, names jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$ SELECT names ? device OR names ? (agent || '/' || device) $$;

-- The live reservations that an operator's request is about, locked.
CREATE OR REPLACE FUNCTION chosen(request jsonb, with_queued boolean) RETURNS SETOF reservation
LANGUAGE sql AS $$
    SELECT * FROM reservation r
    WHERE status <> 'ended' AND (status = 'active' OR with_queued)
      AND CASE
          WHEN request ? 'reservations' THEN request->'reservations' ? r.id
          WHEN request ? 'client' THEN r.client = request->>'client'
          WHEN request ? 'devices' THEN EXISTS (
              SELECT FROM allocation a WHERE a.reservation = r.id AND a.ended_at IS NULL
                AND is_named(a.agent, a.device, request->'devices')
          )
          ELSE (request->>'all')::boolean
      END
    ORDER BY id FOR UPDATE
$$;

-- End reservations, or take devices out of them; return the ids of those reservations.
CREATE OR REPLACE FUNCTION end_chosen(who text, request jsonb) RETURNS SETOF text
LANGUAGE plpgsql AS $$
DECLARE
    r reservation;
    agents text[];
    names text[];
BEGIN
    FOR r IN SELECT * FROM chosen(request, with_queued => true) LOOP
        SELECT array_agg(agent), array_agg(device) INTO agents, names
        FROM allocation a
        WHERE a.reservation = r.id AND a.ended_at IS NULL
          AND (NOT request ? 'devices' OR is_named(a.agent, a.device, request->'devices'));
        IF cardinality(names) < (
            SELECT count(*) FROM allocation WHERE reservation = r.id AND ended_at IS NULL
        ) THEN
            PERFORM give_back(r, agents, names, 'returned', 'operator', who);
        ELSE
            PERFORM end_reservation(r, 'operator', who);
        END IF;
        RETURN NEXT r.id;
    END LOOP;
END $$;

CREATE OR REPLACE FUNCTION extend_chosen(who text, request jsonb) RETURNS SETOF text
LANGUAGE plpgsql AS $$
DECLARE
    r reservation;
    longer interval := make_interval(secs => (request->>'duration')::float);
BEGIN
    FOR r IN SELECT * FROM chosen(request, with_queued => false) LOOP
        UPDATE reservation
        SET granted_at = now(), expires_at = now() + longer, warns_at = warning_of(longer)
        WHERE id = r.id;
        PERFORM record(r, 'extended', 'operator', who, NULL, NULL);
        RETURN NEXT r.id;
    END LOOP;
END $$;

-- Let nobody have the devices of an agent, whose process ends after it where it is to restart.
CREATE OR REPLACE FUNCTION drain(wanted text, who text, deadline interval, restart boolean)
RETURNS void LANGUAGE sql AS $$
    UPDATE agent
    SET asked_at = now(), drains_until = now() + deadline, asked_by = who,
        restarts = CASE WHEN restart THEN boot_id END
    WHERE name = wanted;
    UPDATE device SET draining = true WHERE agent = wanted AND NOT draining;
$$;

-- The agent says so itself for as long as it has not heard of it, or if it has a reason of its own.
CREATE OR REPLACE FUNCTION resume(wanted text) RETURNS void
LANGUAGE sql AS $$
    UPDATE agent
    SET asked_at = NULL, drains_until = NULL, asked_by = NULL, restarts = NULL,
        status = CASE status WHEN 'draining' THEN 'online' ELSE status END
    WHERE name = wanted AND drains_until IS NOT NULL;
    UPDATE device d SET draining = drains(a)
    FROM agent a WHERE a.name = wanted AND d.agent = wanted AND d.draining <> drains(a);
$$;

-- Remove devices. An agent that is there is told to, and finds them again; of one that is away, whoever
-- leads removes what it has left at the broker.
CREATE OR REPLACE FUNCTION forget(who text, in_agents text[], in_devices text[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    lost record;
    r reservation;
BEGIN
    INSERT INTO command (at, agent, device, operation)
    SELECT now(), d.agent, d.name,
           CASE WHEN d.online AND d.status <> 'gone' THEN 'forget' ELSE 'remove' END
    FROM unnest(in_agents, in_devices) AS named (agent, name) JOIN device d USING (agent, name)
    ORDER BY d.agent, d.name;
    UPDATE device d SET note = NULL
    FROM unnest(in_agents, in_devices) AS named (agent, name)
    WHERE d.agent = named.agent AND d.name = named.name;
    FOR lost IN
        SELECT held, d.agent, d.name
        FROM unnest(in_agents, in_devices) AS named (agent, name)
        JOIN device d USING (agent, name) JOIN reservation held ON held.id = d.reservation
        WHERE NOT (d.online AND d.status <> 'gone')
        ORDER BY held.id FOR UPDATE OF held
    LOOP
        r := lost.held;
        PERFORM give_back(r, ARRAY[lost.agent], ARRAY[lost.name], 'returned', 'operator', who);
        IF NOT EXISTS (SELECT FROM allocation WHERE reservation = r.id AND ended_at IS NULL) THEN
            PERFORM end_reservation(r, 'devices_lost', NULL);
        END IF;
    END LOOP;
    DELETE FROM device d
    USING unnest(in_agents, in_devices) AS named (agent, name)
    WHERE d.agent = named.agent AND d.name = named.name
      AND NOT (d.online AND d.status <> 'gone');
END $$;

-- Remove agents that are away, with their devices. Whoever leads removes what they have left at the
-- broker; a command without a device is about the agent itself.
CREATE OR REPLACE FUNCTION forget_agents(who text, names text[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM forget(who, array_agg(agent), array_agg(name)) FROM device WHERE agent = ANY(names);
    INSERT INTO command (at, agent, device, operation)
    SELECT now(), name, '', 'remove' FROM unnest(names) AS name;
    DELETE FROM agent WHERE name = ANY(names);
END $$;

-- An agent as an operator sees it: icefarm_schemas.ConcernedAgent.
CREATE OR REPLACE FUNCTION concerned_agent(a agent) RETURNS jsonb
LANGUAGE sql STABLE AS $$
    SELECT jsonb_strip_nulls(jsonb_build_object(
        'agent', a.name, 'drains_until', a.drains_until, 'restart', a.restarts IS NOT NULL,
        'reservations', (
            SELECT coalesce(jsonb_agg(DISTINCT reservation), '[]') FROM allocation
            WHERE agent = a.name AND ended_at IS NULL
        )
    ))
$$;

-- What agents should know, as it is now: wishes and notes.
CREATE OR REPLACE FUNCTION wanted_of_agents() RETURNS TABLE (agent text, device text, message jsonb)
LANGUAGE sql STABLE AS $$
    SELECT name, NULL, jsonb_strip_nulls(jsonb_build_object(
        'asked_at', asked_at, 'drains_until', drains_until, 'restart', restarts
    ))
    FROM agent WHERE drains_until IS NOT NULL
    UNION ALL
    SELECT d.agent, d.name, jsonb_build_object('text', note)
    FROM device d WHERE note IS NOT NULL AND status <> 'gone'
$$;
