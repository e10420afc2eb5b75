"""The host that AGENT-HOOKS' conformance kit drives: a real one with interceptors as a plugin, and a small loop."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from agent_hooks.ctk.harness import Capability, RunOutcome, RunRecord, Scenario
from agent_hooks.ctk.scripted import redact_paths
from agent_hooks.declaration import HostRegistry, HostSurface
from agent_hooks.emitter import IdentityProvider, InterceptionEmitter

from ally_plugins import GateRefused, Host, Message, ModelInput, Session, ToolCall, ToolResult
from ally_plugins.bridges.agent_hooks import interceptor_plugin
from ally_plugins.contract.tools.recorded_calls import recorded_call
from tests.kit.hosts import make_record

if TYPE_CHECKING:
    from agent_hooks.composition import CompositionConfig


class _Blocked(Exception):
    """The turn may not go on."""


class HostHarness:
    """Runs the kit's scenarios in a host of ours; one instance a scenario."""

    name = "ally-plugins"
    tool_seam_host_error = "continue"

    def __init__(self) -> None:
        self.capabilities = {
            Capability.MODEL_CALLS,
            Capability.TOOL_CALLS,
            Capability.INT64_JSON,
            Capability.BIGINT_JSON,
            Capability.HOST_DECLARATION,
        }
        self._scenario: Scenario
        self._emitter: InterceptionEmitter
        self._invocations: list[dict[str, Any]] = []

    def host_surface(self) -> HostSurface:
        return HostSurface.from_capabilities(
            sorted(each.value for each in self.capabilities), self.tool_seam_host_error
        )

    def declaration(self) -> None:
        return None

    def setup(
        self,
        scenario: Scenario,
        interceptors: list[Any],
        resolver: Any,
        mode: Any,
        composition: CompositionConfig,
        identity_provider: str | None,
        redact_for_approval: list[str] | None = None,
    ) -> None:
        provider: Any = identity_provider
        if identity_provider == "ctk-fault":

            def fail(_: object) -> str:
                raise RuntimeError("a fault of the provider")

            provider = IdentityProvider(identity_provider, fail)
        self._emitter = InterceptionEmitter(
            mode=mode, resolver=resolver, composition=composition, identity_provider=provider
        )
        if paths := redact_for_approval or []:
            self._emitter.set_approval_redactor(lambda context: redact_paths(context, paths))
        for each in interceptors:
            self._emitter.register(each)
        self._scenario = scenario

    def setup_declared(self, scenario: Scenario, document: dict[str, Any], registry: HostRegistry) -> None:
        self._emitter = InterceptionEmitter.from_declaration_value(document, registry)
        self._scenario = scenario

    async def run(self) -> RunRecord:
        plugin = interceptor_plugin(emitter=lambda: self._emitter, tools=sorted(self._scenario.tools))
        record = make_record("interceptors", transform_on_error="block")
        outcome, final = RunOutcome.COMPLETED, None
        async with Host(home=None, plugins={"interceptors": (plugin, record)}) as host:
            session = host.session()
            try:
                final = await self._turn(session)
            except (_Blocked, GateRefused):
                outcome = RunOutcome.BLOCKED
            await session.close()
        found = self._emitter.results
        return RunRecord(
            outcome=outcome,
            final_output=final,
            tool_invocations=self._invocations,
            identities=[(each.input_identity, each.enforced_identity) for each in found],
            records=[each.to_wire() for each in found],
        )

    async def _turn(self, session: Session) -> str | None:
        given = self._scenario.input
        message = await session.transform_user_message(Message(role=given["role"], content=given["content"]))
        if not (await session.gate_user_message(message)).is_allowed:
            raise _Blocked
        messages = [message]
        for number, response in enumerate(self._scenario.model_script):
            await session.transform_model_request(ModelInput(model="mock", messages=messages))
            calls = [(each["id"], each["name"], each["args"]) for each in response.tool_calls]
            recorded = [recorded_call(name, args, call_id) for call_id, name, args in calls]
            answer = Message(role="assistant", content=response.content or "", tool_calls=recorded, id=f"a{number}")
            answer = await session.transform_answer(answer)
            if not (await session.gate_answer(answer)).is_allowed:
                raise _Blocked
            if not calls:
                return answer.content
            messages.append(answer)
            for call_id, name, args in calls:
                result = await session.run_tool_call(ToolCall(name, args, call_id), self._call)
                text = result.error or result.output
                messages.append(Message(role="tool", content=text, tool_call_id=call_id, id=f"{call_id}-result"))
        return None

    async def _call(self, call: ToolCall) -> ToolResult:
        arguments = json.loads(json.dumps(call.arguments, default=dict))
        value, is_error = self._scenario.tools[call.tool_name].invoke(arguments)
        self._invocations.append({"name": call.tool_name, "args": arguments})
        text = value if isinstance(value, str) else json.dumps(value)
        data = None if isinstance(value, str) else value
        return ToolResult(success=not is_error, output=text, error=text if is_error else None, data=data)

    def teardown(self) -> None:
        self._invocations = []
