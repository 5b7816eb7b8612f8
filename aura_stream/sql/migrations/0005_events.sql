-- Events: the log that everybody reads from, what identity has to tell, webhooks and their deliveries.
-- depends: 0004_settlement

-- migrate: apply

-- aura_events: what the workers `events` and `webhooks` act as. They see all tenants and own nothing.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'aura_events') THEN
        BEGIN
            CREATE ROLE aura_events NOLOGIN;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;
        END;
    END IF;
    IF NOT pg_has_role(current_user, 'aura_events', 'SET') THEN
        EXECUTE format('GRANT aura_events TO %I', current_user);
    END IF;
END
$$;

CREATE SCHEMA events AUTHORIZATION aura_owner;

SET LOCAL ROLE aura_owner;

-- How far each partition of the topics of events is in the log, and who may write: the fence, as in the sink.
CREATE TABLE events.sources (
    partition integer PRIMARY KEY CHECK (partition BETWEEN 0 AND 32767),
    epoch bigint NOT NULL DEFAULT 1,
    next_offsets bigint[] NOT NULL DEFAULT '{0,0,0}' CHECK (cardinality(next_offsets) = 3)
);

COMMENT ON COLUMN events.sources.next_offsets IS 'of transaction-events, account-events, auth-events';

-- The last position given. Its row is locked by whoever appends, so that positions are dense and become visible in
-- their order: a reader that is at a position has seen everything below it.
CREATE TABLE events.head (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    last bigint NOT NULL
);

INSERT INTO events.head (last) VALUES (0);

CREATE TABLE events.log (
    position bigint PRIMARY KEY,
    event_id text COLLATE "C" NOT NULL UNIQUE,
    tenant_id text COLLATE "C" NOT NULL,
    customer_id text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    aggregate text COLLATE "C" NOT NULL,
    seq integer NOT NULL,
    transaction_id uuid,
    occurred_at timestamptz NOT NULL,
    body text NOT NULL
);

CREATE INDEX log_of_tenant ON events.log (tenant_id, position);
CREATE INDEX log_of_customer ON events.log (tenant_id, customer_id, position);
CREATE INDEX log_of_transaction ON events.log (transaction_id, position) WHERE transaction_id IS NOT NULL;

COMMENT ON COLUMN events.log.customer_id IS 'empty where it is about no customer';
COMMENT ON COLUMN events.log.body IS 'the event as everybody gets it, byte for byte: over HTTP, streams and webhooks';

-- What identity and the webhooks have to tell, in the transaction that did it; a relay sends it to Kafka.
CREATE TABLE events.outbox (
    outbox_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id text COLLATE "C" NOT NULL DEFAULT 'a-' || replace(gen_random_uuid()::text, '-', ''),
    topic text COLLATE "C" NOT NULL CHECK (topic IN ('auth', 'account')),
    tenant_id text COLLATE "C" NOT NULL,
    customer_id text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    seq integer NOT NULL,
    occurred_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    request_id text COLLATE "C" NOT NULL,
    data jsonb NOT NULL
);

-- How many events an aggregate has had. The row's lock puts them in the order of their commits.
CREATE TABLE events.seqs (
    tenant_id text COLLATE "C" NOT NULL,
    aggregate text COLLATE "C" NOT NULL,
    seq integer NOT NULL,
    PRIMARY KEY (tenant_id, aggregate)
);

-- One use, for browsers, which can send no header with a stream. Sealed: whose it is.
CREATE TABLE events.tickets (
    ticket_hash bytea PRIMARY KEY CHECK (octet_length(ticket_hash) = 32),
    sealed bytea NOT NULL,
    expires_at timestamptz NOT NULL
);

CREATE INDEX tickets_by_end ON events.tickets (expires_at);

CREATE TABLE events.webhook_endpoints (
    endpoint_id uuid PRIMARY KEY,
    tenant_id text COLLATE "C" NOT NULL REFERENCES identity.tenants,
    customer_id text COLLATE "C",
    url text NOT NULL,
    description text,
    types text[] NOT NULL CHECK (cardinality(types) BETWEEN 1 AND 64),
    status text COLLATE "C" NOT NULL DEFAULT 'enabled' CHECK (status IN ('enabled', 'disabled')),
    disabled_reason text COLLATE "C" CHECK (disabled_reason IN ('by_request', 'gone', 'failing', 'owner_disabled', 'tenant_inactive')),
    secret_sealed bytea NOT NULL,
    previous_sealed bytea,
    previous_until timestamptz,
    failing_since timestamptz,
    created_by text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (tenant_id, endpoint_id),
    CHECK ((status = 'disabled') = (disabled_reason IS NOT NULL)),
    CHECK ((previous_sealed IS NULL) = (previous_until IS NULL))
);

CREATE INDEX webhook_endpoints_of_tenant ON events.webhook_endpoints (tenant_id, created_at, endpoint_id);

COMMENT ON COLUMN events.webhook_endpoints.customer_id IS 'whose events it gets; null: those of all customers of the tenant, and of none';
COMMENT ON COLUMN events.webhook_endpoints.secret_sealed IS 'sealed by a secret that the database does not have';
COMMENT ON COLUMN events.webhook_endpoints.failing_since IS 'the first failure since the last success';

CREATE TABLE events.webhook_deliveries (
    delivery_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id text COLLATE "C" NOT NULL,
    endpoint_id uuid NOT NULL,
    event_id text COLLATE "C" NOT NULL,
    position bigint NOT NULL,
    type text COLLATE "C" NOT NULL,
    aggregate text COLLATE "C" NOT NULL,
    body text,
    status text COLLATE "C" NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'delivered', 'failed')),
    tries integer NOT NULL DEFAULT 0,
    attempts integer NOT NULL DEFAULT 0,
    next_at timestamptz NOT NULL DEFAULT '-infinity',
    lease uuid,
    lease_until timestamptz,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz,
    UNIQUE (tenant_id, delivery_id),
    CHECK ((lease IS NULL) = (lease_until IS NULL)),
    CHECK ((status = 'pending') = (finished_at IS NULL)),
    FOREIGN KEY (tenant_id, endpoint_id) REFERENCES events.webhook_endpoints (tenant_id, endpoint_id) ON DELETE CASCADE
);

CREATE INDEX webhook_deliveries_of_tenant ON events.webhook_deliveries (tenant_id, created_at, delivery_id);
CREATE INDEX webhook_deliveries_of_endpoint ON events.webhook_deliveries (endpoint_id, created_at, delivery_id);
CREATE INDEX webhook_deliveries_due ON events.webhook_deliveries (endpoint_id, next_at) WHERE status = 'pending';
CREATE INDEX webhook_deliveries_untried ON events.webhook_deliveries (endpoint_id, aggregate, position) WHERE status = 'pending' AND tries = 0;
CREATE INDEX webhook_deliveries_by_end ON events.webhook_deliveries (finished_at) WHERE status <> 'pending';

COMMENT ON COLUMN events.webhook_deliveries.body IS 'only where the log does not have the event: a test';
COMMENT ON COLUMN events.webhook_deliveries.tries IS 'in this round of the schedule; a retry by hand begins another';

CREATE TABLE events.webhook_attempts (
    tenant_id text COLLATE "C" NOT NULL,
    delivery_id uuid NOT NULL,
    number integer NOT NULL CHECK (number >= 1),
    at timestamptz NOT NULL,
    duration_ms integer NOT NULL,
    status_code integer,
    error text CHECK (length(error) <= 300),
    response text CHECK (length(response) <= 1024),
    PRIMARY KEY (delivery_id, number),
    FOREIGN KEY (tenant_id, delivery_id) REFERENCES events.webhook_deliveries (tenant_id, delivery_id) ON DELETE CASCADE
);

-- One tenant per transaction of the API. The workers see all: they serve every tenant.
DO $$
DECLARE
    table_name text;
BEGIN
    FOREACH table_name IN ARRAY ARRAY['log', 'outbox', 'seqs', 'webhook_endpoints', 'webhook_deliveries', 'webhook_attempts'] LOOP
        EXECUTE format('ALTER TABLE events.%I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', table_name);
        EXECUTE format('CREATE POLICY own_tenant ON events.%I TO aura_identity USING (tenant_id = current_setting(''aura.tenant'', true)) '
            'WITH CHECK (tenant_id = current_setting(''aura.tenant'', true))', table_name);
        EXECUTE format('CREATE POLICY every_tenant ON events.%I TO aura_events, aura_reader, aura_owner USING (true) WITH CHECK (true)', table_name);
    END LOOP;
END
$$;

CREATE FUNCTION events.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'events.% is append-only: % refused', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'restrict_violation', SCHEMA = 'events', TABLE = TG_TABLE_NAME, CONSTRAINT = TG_TABLE_NAME || '_immutable';
END
$$;

CREATE TRIGGER immutable BEFORE UPDATE OR DELETE ON events.log FOR EACH ROW EXECUTE FUNCTION events.refuse_change();
CREATE TRIGGER immutable_whole BEFORE TRUNCATE ON events.log FOR EACH STATEMENT EXECUTE FUNCTION events.refuse_change();
ALTER TABLE events.log ENABLE ALWAYS TRIGGER immutable, ENABLE ALWAYS TRIGGER immutable_whole;

-- Makes the caller the owner of a partition; a former owner can append no more.
CREATE FUNCTION events.claim(claimed integer) RETURNS TABLE (epoch bigint, next_offsets bigint[])
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO events.sources AS s (partition) VALUES (claimed)
    ON CONFLICT (partition) DO UPDATE SET epoch = s.epoch + 1
    RETURNING s.epoch, s.next_offsets
$$;

-- Whether an endpoint that asked for some types gets this one: its name, its family ("transfer.*"), or everything ("*").
CREATE FUNCTION events.wants(types text[], type text) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT type = ANY (types) OR split_part(type, '.', 1) || '.*' = ANY (types) OR '*' = ANY (types)
$$;

-- Appends events of a partition and moves its offsets, and gives each endpoint that wants one a delivery: one
-- statement, so that no lock outlives a client that freezes. Null when another owner has the partition; an event that
-- is there already (the relay sends again what it is not sure of) is passed over.
CREATE FUNCTION events.append(
    claimed integer, held bigint, was bigint[], becomes bigint[],
    ids text[], tenants text[], customers text[], types text[], aggregates text[], seqs integer[], transactions text[],
    times timestamptz[], bodies text[]
) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    before bigint;
    added bigint;
BEGIN
    UPDATE events.sources s SET next_offsets = becomes WHERE s.partition = claimed AND s.epoch = held AND s.next_offsets = was;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    SELECT last INTO before FROM events.head FOR UPDATE;
    WITH given AS (
        SELECT DISTINCT ON (e.id) e.* FROM unnest(ids, tenants, customers, types, aggregates, seqs, transactions, times, bodies)
            WITH ORDINALITY AS e (id, tenant, customer, type, aggregate, seq, transaction_id, at, body, place)
        WHERE NOT EXISTS (SELECT FROM events.log l WHERE l.event_id = e.id)
        ORDER BY e.id, e.place
    ), fresh AS (
        INSERT INTO events.log (position, event_id, tenant_id, customer_id, type, aggregate, seq, transaction_id, occurred_at, body)
        SELECT before + row_number() OVER (ORDER BY g.place), g.id, g.tenant, g.customer, g.type, g.aggregate, g.seq,
            nullif(g.transaction_id, '')::uuid, g.at, g.body
        FROM given g
        RETURNING position, event_id, tenant_id, customer_id, type, aggregate
    ), wanted AS (
        INSERT INTO events.webhook_deliveries (tenant_id, endpoint_id, event_id, position, type, aggregate)
        SELECT f.tenant_id, w.endpoint_id, f.event_id, f.position, f.type, f.aggregate
        FROM fresh f JOIN events.webhook_endpoints w ON w.tenant_id = f.tenant_id
        WHERE w.status = 'enabled' AND (w.customer_id IS NULL OR w.customer_id = f.customer_id) AND events.wants(w.types, f.type)
    )
    SELECT count(*) INTO added FROM fresh;
    IF added > 0 THEN
        UPDATE events.head SET last = before + added;
        PERFORM pg_notify('aura_events', (before + added)::text);
    END IF;
    RETURN before + added;
END
$$;

-- Tells an event, in the transaction of what happened.
CREATE FUNCTION events.tell(topic text, tenant text, customer text, aggregate text, type text, data jsonb) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH numbered AS (
        INSERT INTO events.seqs AS s (tenant_id, aggregate, seq) VALUES (tenant, aggregate, 1)
        ON CONFLICT (tenant_id, aggregate) DO UPDATE SET seq = s.seq + 1
        RETURNING s.seq
    )
    INSERT INTO events.outbox (topic, tenant_id, customer_id, type, seq, request_id, data)
    SELECT topic, tenant, coalesce(customer, ''), type, n.seq, coalesce(current_setting('aura.request_id', true), ''), jsonb_strip_nulls(data)
    FROM numbered n
$$;

-- The next events to send, for one relay at a time; the rows go with `events.sent` in the same transaction.
CREATE FUNCTION events.unsent(count_max integer) RETURNS SETOF events.outbox
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF pg_try_advisory_xact_lock(hashtextextended('events.outbox', 0)) THEN
        RETURN QUERY SELECT o.* FROM events.outbox o ORDER BY o.outbox_id LIMIT count_max;
    END IF;
END
$$;

CREATE FUNCTION events.sent(ids bigint[]) RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM events.outbox WHERE outbox_id = ANY (ids)
$$;

CREATE FUNCTION events.add_ticket(hash bytea, sealed bytea, life_s integer) RETURNS timestamptz
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM events.tickets WHERE expires_at < clock_timestamp();
    INSERT INTO events.tickets (ticket_hash, sealed, expires_at) VALUES ($1, $2, clock_timestamp() + make_interval(secs => $3))
    RETURNING expires_at
$$;

-- What a ticket was made for; it is gone then. Null when there is none, or not any more.
CREATE FUNCTION events.redeem_ticket(hash bytea) RETURNS bytea LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH gone AS (DELETE FROM events.tickets WHERE ticket_hash = $1 RETURNING sealed, expires_at)
    SELECT sealed FROM gone WHERE expires_at >= clock_timestamp()
$$;

-- What identity does is told by the tables themselves: exactly what was committed, whoever did it. No personal data.
CREATE FUNCTION identity.tell_user() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    about jsonb := jsonb_build_object('user_id', NEW.user_id);
    aggregate text := 'user_id:' || NEW.user_id;
BEGIN
    IF TG_OP = 'INSERT' THEN
        PERFORM events.tell('auth', NEW.tenant_id, NEW.customer_id, aggregate, 'user.registered', about);
        RETURN NULL;
    END IF;
    IF NEW.verified_at IS NOT NULL AND OLD.verified_at IS NULL THEN
        PERFORM events.tell('auth', NEW.tenant_id, NEW.customer_id, aggregate, 'user.verified', about);
    END IF;
    IF NEW.password_changed_at IS DISTINCT FROM OLD.password_changed_at THEN
        PERFORM events.tell('auth', NEW.tenant_id, NEW.customer_id, aggregate, 'user.password_changed', about);
    END IF;
    IF NEW.roles <> OLD.roles THEN
        PERFORM events.tell('auth', NEW.tenant_id, NEW.customer_id, aggregate, 'user.roles_changed',
            about || jsonb_build_object('roles', array_to_string(NEW.roles, ' ')));
    END IF;
    IF NEW.status <> OLD.status THEN
        PERFORM events.tell('auth', NEW.tenant_id, NEW.customer_id, aggregate,
            CASE NEW.status WHEN 'ACTIVE' THEN 'user.reactivated' WHEN 'SUSPENDED' THEN 'user.suspended' ELSE 'user.deleted' END, about);
        IF NEW.status <> 'ACTIVE' THEN
            UPDATE events.webhook_endpoints SET status = 'disabled', disabled_reason = 'owner_disabled', updated_at = clock_timestamp()
            WHERE tenant_id = NEW.tenant_id AND customer_id = NEW.customer_id AND status = 'enabled';
        END IF;
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION identity.tell_session() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM events.tell('auth', NEW.tenant_id, (SELECT u.customer_id FROM identity.users u WHERE u.user_id = NEW.user_id),
        'user_id:' || NEW.user_id, CASE TG_OP WHEN 'INSERT' THEN 'user.logged_in' ELSE 'session.revoked' END,
        jsonb_build_object('user_id', NEW.user_id, 'session_id', NEW.session_id, 'reason', NEW.end_reason));
    RETURN NULL;
END
$$;

CREATE FUNCTION identity.tell_api_key() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM events.tell('auth', NEW.tenant_id, NEW.customer_id, 'key_id:' || NEW.key_id,
        CASE TG_OP WHEN 'INSERT' THEN 'api_key.created' ELSE 'api_key.revoked' END,
        jsonb_build_object('key_id', NEW.key_id, 'user_id', NEW.user_id));
    RETURN NULL;
END
$$;

CREATE FUNCTION identity.tell_tenant() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM events.tell('auth', NEW.tenant_id, '', 'tenant',
        CASE NEW.status WHEN 'active' THEN 'tenant.activated' ELSE 'tenant.deactivated' END, '{}'::jsonb);
    IF NEW.status = 'inactive' THEN
        UPDATE events.webhook_endpoints SET status = 'disabled', disabled_reason = 'tenant_inactive', updated_at = clock_timestamp()
        WHERE tenant_id = NEW.tenant_id AND status = 'enabled';
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER told AFTER INSERT OR UPDATE ON identity.users FOR EACH ROW EXECUTE FUNCTION identity.tell_user();
CREATE TRIGGER told_begin AFTER INSERT ON identity.sessions FOR EACH ROW EXECUTE FUNCTION identity.tell_session();
CREATE TRIGGER told_end AFTER UPDATE ON identity.sessions FOR EACH ROW WHEN (OLD.ended_at IS NULL AND NEW.ended_at IS NOT NULL)
    EXECUTE FUNCTION identity.tell_session();
CREATE TRIGGER told_begin AFTER INSERT ON identity.api_keys FOR EACH ROW EXECUTE FUNCTION identity.tell_api_key();
CREATE TRIGGER told_end AFTER UPDATE ON identity.api_keys FOR EACH ROW WHEN (OLD.revoked_at IS NULL AND NEW.revoked_at IS NOT NULL)
    EXECUTE FUNCTION identity.tell_api_key();
CREATE TRIGGER told AFTER UPDATE ON identity.tenants FOR EACH ROW WHEN (OLD.status <> NEW.status) EXECUTE FUNCTION identity.tell_tenant();

-- An endpoint that the worker has disabled is told as well.
CREATE FUNCTION events.tell_endpoint() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM events.tell('account', NEW.tenant_id, NEW.customer_id, 'endpoint_id:' || NEW.endpoint_id, 'webhook.endpoint_disabled',
        jsonb_build_object('endpoint_id', NEW.endpoint_id, 'reason', NEW.disabled_reason));
    RETURN NULL;
END
$$;

CREATE TRIGGER told AFTER UPDATE ON events.webhook_endpoints FOR EACH ROW WHEN (OLD.status = 'enabled' AND NEW.status = 'disabled')
    EXECUTE FUNCTION events.tell_endpoint();

-- Grants.
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA events FROM PUBLIC;
REVOKE ALL ON FUNCTION identity.tell_user, identity.tell_session, identity.tell_api_key, identity.tell_tenant FROM PUBLIC;
GRANT USAGE ON SCHEMA events TO aura_events, aura_identity, aura_reader;
GRANT SELECT ON events.log, events.head TO aura_events, aura_identity, aura_reader;
GRANT SELECT ON events.webhook_endpoints, events.webhook_deliveries, events.webhook_attempts TO aura_events, aura_identity;
GRANT INSERT, DELETE ON events.webhook_endpoints TO aura_identity;
GRANT UPDATE (url, description, types, status, disabled_reason, secret_sealed, previous_sealed, previous_until, failing_since, updated_at)
    ON events.webhook_endpoints TO aura_identity;
GRANT INSERT ON events.webhook_deliveries TO aura_identity;
GRANT UPDATE (status, tries, next_at, lease, lease_until, finished_at) ON events.webhook_deliveries TO aura_identity;
GRANT UPDATE (status, disabled_reason, failing_since, updated_at) ON events.webhook_endpoints TO aura_events;
GRANT UPDATE (status, tries, attempts, next_at, lease, lease_until, finished_at) ON events.webhook_deliveries TO aura_events;
GRANT DELETE ON events.webhook_deliveries TO aura_events;
GRANT INSERT ON events.webhook_attempts TO aura_events;
GRANT EXECUTE ON FUNCTION events.claim, events.append, events.unsent, events.sent, events.wants TO aura_events;
GRANT EXECUTE ON FUNCTION events.add_ticket, events.redeem_ticket, events.wants TO aura_identity;
GRANT USAGE ON SCHEMA ledger TO aura_events;
GRANT SELECT ON ledger.sink_offsets TO aura_events;

RESET ROLE;

-- migrate: rollback

-- The log is what others have built on: a mistake in the schema is mended by a migration forward.
DO $$
BEGIN
    RAISE EXCEPTION 'events are not rolled back; mend it by a new migration';
END
$$;
