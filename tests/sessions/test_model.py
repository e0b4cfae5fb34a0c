"""The real service over HTTP, beside a model of what its users are told: any order of events."""

import base64
import dataclasses
import json
import uuid

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from revoker.store.keys import tag_and_start
from revoker.store.wire.command_channel import Confirmation
from tests.rig.fault_proxy import FAULTS, FaultProxy
from tests.rig.service import HANGS_S
from tests.rig.virtual_time import Clockwork
from tests.sessions.conftest import SESSIONS_ISSUER, deleted, listed, without_signing_key

# Time passes in steps of 36 s and the real moments between them: none ends in the 18 s before one of these.
STEP = 36
GRACE, ACCESS, LEEWAY, IDLE, ABSOLUTE = 60, 384, 30, 600, 6000
CLIENTS = ("web", "app")
GRANTS = ("g1", "g2")
SCOPE = "read write"


@dataclasses.dataclass(eq=False)
class Access:
    """An access token and what the model must know of it."""

    text: str
    exp: int
    listed: bool = False


@dataclasses.dataclass(eq=False)
class Login:
    """A session as its user sees it; times in ms."""

    sub: str
    client: str
    grants: tuple[str, ...]
    sid: str
    start: int
    given: float
    used: float
    refresh: list[str]
    access: list[Access]
    cutoff: int = 0
    open: bool = False


class Model(RuleBasedStateMachine):
    """Each rule asks the service and says what it must answer."""

    sessions = Bundle("sessions")
    users = st.sampled_from(["a", "b"])
    clients = st.sampled_from(CLIENTS)
    grants = st.sampled_from(GRANTS)
    faults = st.sampled_from([*FAULTS, "no_key", "clocks_apart", "data_refused"])
    pasts = st.sampled_from([None, 0, 3, 20])

    def __init__(self, clockwork, grace):
        super().__init__()
        self.clockwork, self.running, self.grace = clockwork, clockwork.running, grace
        self.relay = clockwork.relay
        self.logins = []
        self.cutoffs = {"a": [], "b": []}
        self.blocked = set()
        self.clients_cut = dict.fromkeys(CLIENTS, 0)
        self.grants_cut = dict.fromkeys(GRANTS, 0)
        run = uuid.uuid4().hex  # the store still has what earlier runs revoked
        self.subs = {name: f"{name}-{run}" for name in "ab"}
        self.names = {name: f"{name}-{run}" for name in CLIENTS + GRANTS}

    # What holds

    def now(self):
        return self.clockwork.now() * 1000

    def covered(self, login):
        by_user = any(login.start <= at and spared != login.sid for at, spared in self.cutoffs[login.sub])
        return by_user or self.covered_by_others(login) or login.start <= login.cutoff

    def others_cut(self, client, grants):
        """The latest cutoff of a client and of the grants of a session."""
        return max(self.clients_cut[client], *(self.grants_cut[grant] for grant in grants), 0)

    def covered_by_others(self, login):
        return login.start - 2000 <= self.others_cut(login.client, login.grants)

    def usable(self, login):
        """Whether its refresh token and its elevation would be heard."""
        ends = min(login.start + ABSOLUTE * 1000, login.used + IDLE * 1000)
        return login.sub not in self.blocked and not self.covered(login) and self.now() < ends

    def active(self, login, access):
        fresh = (access.exp + LEEWAY) * 1000 > self.now()
        return fresh and not access.listed and login.sub not in self.blocked and not self.covered(login)

    # What is asked

    def ask(self, path, body, **request):
        return self.clockwork.run(self.running.post(path, body, **request))

    def revoked(self, path, **body):
        answer = self.ask(path, {"iss": SESSIONS_ISSUER, **body})
        assert answer.status == 200, answer.body
        return round(answer.json["cutoff"] * 1000)

    def before(self, ago):
        return {} if ago is None else {"before": int(self.now() - ago * 1000) / 1000}

    def took(self, login, answer):
        """Note an access token that was given, which never outlives its session."""
        text = answer.json["access_token"]
        payload = text.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        assert claims["exp"] == min(claims["iat"] + ACCESS, login.start // 1000 + ABSOLUTE)
        assert abs(claims["iat"] - self.now() / 1000) < STEP / 2
        assert claims.get("grant_id", []) == [self.names[grant] for grant in login.grants]
        login.access.append(Access(text, claims["exp"]))
        return claims

    # What happens

    def login_of(self, user, client, grants):
        asked = {"sub": self.subs[user], "client_id": self.names[client], "scope": SCOPE}
        return {**asked, "claims": {"grant_id": [self.names[grant] for grant in grants]}} if grants else asked

    @rule(target=sessions, user=users, client=clients, grants=st.sampled_from([(), ("g1",), ("g2",), GRANTS]))
    def log_in(self, user, client, grants):
        soonest = self.now()
        answer = self.ask("/sessions", self.login_of(user, client, grants))
        while answer.status == 503:  # until it works: which sessions there are must not depend on real time
            assert soonest - 2000 <= self.others_cut(client, grants) + 1, answer.body
            self.clockwork.pass_time(STEP)
            soonest = self.now()
            answer = self.ask("/sessions", self.login_of(user, client, grants))
        if user in self.blocked:
            assert answer.error == (403, "access_denied")
            return multiple()
        assert answer.status == 201, answer.body
        body = answer.json
        start = tag_and_start(body["sid"])[1]
        assert start - 2000 > self.others_cut(client, grants)
        login = Login(user, client, grants, body["sid"], start, start, start, [body["refresh_token"]], [])
        self.took(login, answer)
        self.logins.append(login)
        assert not self.covered(login)
        return login

    @rule(login=sessions, times=st.integers(1, 3))
    def go_on(self, login, times):
        for _ in range(times):
            self.refresh(login, 0, None)

    @rule(login=sessions, times=st.integers(1, 3), back=st.integers(1, 3))
    def go_on_and_replay(self, login, times, back):
        self.go_on(login, times)
        self.refresh(login, back, None)

    @rule(
        login=sessions, back=st.integers(0, 3), scope=st.sampled_from([None, "read", "admin", "read admin"])
    )
    def refresh(self, login, back, scope):
        back = 0 if login.open else min(back, len(login.refresh) - 1)
        form = {"grant_type": "refresh_token", "refresh_token": login.refresh[-1 - back]}
        if scope:
            form["scope"] = scope
        answer = self.ask("/token", None, form=form, caller=None)
        if not self.usable(login):
            assert answer.error == (400, "invalid_grant")
        elif back > 1 or (back == 1 and self.now() >= login.given + self.grace * 1000):
            assert answer.error == (400, "invalid_grant")
            login.cutoff = login.start
        elif scope and "admin" in scope:
            assert answer.error == (400, "invalid_scope")
        else:
            assert answer.status == 200, answer.body
            assert answer.json["scope"] == (scope or SCOPE)
            if back == 0:
                login.refresh.append(answer.json["refresh_token"])
                login.given = login.used = self.now()
                login.open = False
            assert answer.json["refresh_token"] == login.refresh[-1]
            assert len(set(login.refresh)) == len(login.refresh)
            self.took(login, answer)

    @rule(login=sessions, factor=st.sampled_from(["otp", "hwk"]))
    def elevate(self, login, factor):
        answer = self.ask(f"/sessions/{login.sid}/elevate", {"amr": ["pwd", factor], "acr": "mfa"})
        if not self.usable(login):
            assert answer.error == (403, "access_denied")
            return
        assert answer.status == 200, answer.body
        login.used = self.now()
        claims = self.took(login, answer)
        assert (claims["amr"], claims["acr"]) == (["pwd", factor], "mfa")
        assert abs(claims["auth_time"] - self.now() / 1000) < STEP / 2

    # What is refused

    def refused(self, answer):
        assert answer.error == (503, "temporarily_unavailable")

    def fails(self, login, fault, path, body, **request):
        """Ask while something is amiss; returns whether the script was carried out."""
        if fault == "clocks_apart":
            with self.clockwork.clocks_apart(40):
                answer = self.ask(path, body, **request)
        elif fault == "data_refused":
            with self.clockwork.refused_data():
                answer = self.ask(path, body, **request)
        elif fault == "no_key":
            forget = self.clockwork.run(without_signing_key(self.running, login.access[-1].text))
            answer = self.ask(path, body, **request)
            self.clockwork.run(forget())
        else:
            self.relay.arm(fault)
            answer = self.ask(path, body, **request)
            self.relay.disarm()
        self.refused(answer)
        return fault in {"lost_after", "unconfirmed"}

    @rule(login=sessions, fault=faults)
    def refresh_in_vain(self, login, fault):
        """The token in hand stays the one that counts, for as long as the session lives."""
        form = {"grant_type": "refresh_token", "refresh_token": login.refresh[-1]}
        usable = self.usable(login)
        if not usable and self.covered_by_others(login):
            return  # the lookup refuses it: no script is sent
        done = self.fails(login, fault, "/token", None, form=form, caller=None)
        if done and usable:
            login.used, login.open = self.now(), True

    @rule(login=sessions, fault=faults)
    def log_in_in_vain(self, login, fault):
        """No session begins, as the list of them shows."""
        if self.now() - 4000 <= self.others_cut(login.client, login.grants):
            return
        asked = self.login_of(login.sub, login.client, login.grants)
        self.fails(login, fault, "/sessions", asked)
        self.list_sessions(login.sub)

    @rule(login=sessions, fault=faults)
    def elevate_in_vain(self, login, fault):
        usable = self.usable(login)
        if not usable:
            return
        done = self.fails(login, fault, f"/sessions/{login.sid}/elevate", {"amr": ["pwd", "otp"]})
        if done:
            login.used = self.now()

    @rule(login=sessions)
    def delete_in_vain(self, login):
        """The end stands without confirmation; a repeat completes it."""
        self.relay.arm("unconfirmed")
        self.refused(self.clockwork.run(deleted(self.running, login.sid)))
        login.cutoff = login.start
        self.access_tokens_are_active_as_the_model_says()
        self.delete(login)

    @rule(login=sessions)
    def delete(self, login):
        assert self.clockwork.run(deleted(self.running, login.sid)).status == 204
        login.cutoff = login.start

    @rule(login=sessions, back=st.integers(0, 3))
    def revoke_refresh_token(self, login, back):
        token = login.refresh[-1 - min(back, len(login.refresh) - 1)]
        assert self.ask("/revoke", None, form={"token": token}).status == 200
        login.cutoff = login.start

    @rule(login=sessions, back=st.integers(0, 3))
    def revoke_access_token(self, login, back):
        access = login.access[-1 - min(back, len(login.access) - 1)]
        assert self.ask("/revoke", None, form={"token": access.text}).status == 200
        access.listed = True

    @rule(login=sessions, ago=pasts)
    def revoke_session(self, login, ago):
        asked = self.before(ago)
        at = self.revoked("/revoke-session", sid=login.sid, **asked)
        assert at >= asked.get("before", 0) * 1000 - 0.5
        login.cutoff = max(login.cutoff, at)

    @rule(user=users, ago=pasts)
    def revoke_user(self, user, ago):
        asked = self.before(ago)
        at = self.revoked("/revoke-user", sub=self.subs[user], **asked)
        self.cutoffs[user].append((round(asked["before"] * 1000) if asked else at, ""))

    @rule(login=sessions, ago=pasts)
    def revoke_user_except(self, login, ago):
        user = login.sub
        asked = self.before(ago)
        at = self.revoked("/revoke-user", sub=self.subs[user], except_sid=login.sid, **asked)
        self.cutoffs[user].append((round(asked["before"] * 1000) if asked else at, login.sid))

    @rule(client=clients)
    def revoke_client(self, client):
        self.clients_cut[client] = self.revoked("/revoke-client", client_id=self.names[client])

    @rule(grant=grants)
    def revoke_grant(self, grant):
        self.grants_cut[grant] = self.revoked("/revoke-claim", claim="grant_id", value=self.names[grant])

    @rule(user=users, login=sessions, lasting=st.sampled_from([False, False, True]))
    def block(self, user, login, lasting):
        assert self.ask("/block-user", {"iss": SESSIONS_ISSUER, "sub": self.subs[user]}).status == 200
        self.blocked.add(user)
        self.access_tokens_are_active_as_the_model_says()
        self.refresh(login, 0, None)
        if not lasting:
            self.unblock(user)

    @rule(user=users)
    def unblock(self, user):
        assert self.ask("/unblock-user", {"iss": SESSIONS_ISSUER, "sub": self.subs[user]}).status == 200
        self.blocked.discard(user)

    @rule(steps=st.sampled_from([1, 1, 1, 1, 1, 2, 4, 15, 17, 60]))
    def time_passes(self, steps):
        self.clockwork.pass_time(steps * STEP)

    # What all must always see

    @invariant()
    def access_tokens_are_active_as_the_model_says(self):
        asked = [(login, access) for login in self.logins for access in login.access[-4:]]
        if asked:
            answer = self.ask(
                "/introspect/batch", {"tokens": [{"token": access.text} for _, access in asked]}
            )
            body = [result["active"] for result in answer.json["results"]]
            assert body == [self.active(login, access) for login, access in asked]

    @rule(login=sessions, back=st.integers(0, 1))
    def introspect_refresh_token(self, login, back):
        token = login.refresh[-1 - min(back, len(login.refresh) - 1)]
        body = self.ask("/introspect", {"token": token}).json
        assert body["active"] == (self.usable(login) and token == login.refresh[-1])

    @rule(user=users)
    def list_sessions(self, user):
        answer = self.clockwork.run(listed(self.running, self.subs[user]))
        assert answer.status == 200, answer.body
        lives = {login.sid for login in self.logins if login.sub == user and self.lives(login)}
        assert {session["sid"] for session in answer.json["sessions"]} == lives

    def lives(self, login):
        ends = min(login.start + ABSOLUTE * 1000, login.used + IDLE * 1000)
        return not self.covered(login) and self.now() < ends


@pytest.fixture(params=[GRACE, 0])
def clockwork(request, valkey, tmp_path, sessions_section, monkeypatch):
    lifetimes = {"access_token_lifetime": ACCESS, "idle_timeout": IDLE, "absolute_timeout": ABSOLUTE}
    section = sessions_section(refresh_grace=request.param, revocable=["grant_id"], **lifetimes)
    relay = FaultProxy(valkey)
    changes = {
        "sessions": section,
        "revocation": {"max_token_lifetime": 12_000},
        "redis": {"wait_replicas": 1},
    }
    monkeypatch.setattr(Confirmation, "FRESH_S", HANGS_S)  # the machine may stand still
    made = Clockwork(valkey, tmp_path, through=relay, **changes)
    made.patch(monkeypatch)
    made.relay = relay
    yield made, request.param
    made.close()


def test_whatever_happens_in_any_order_the_service_says_what_the_model_says(clockwork):
    works, grace = clockwork
    run_state_machine_as_test(
        lambda: Model(works, grace),
        settings=settings(
            settings.default,
            max_examples=max(40, settings.default.max_examples // 2),
            stateful_step_count=40,
            phases=[Phase.generate],
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
