import { clock, count, duration } from "../figures";
import { sessionHref } from "../route";
import type { LiveRequest, Snapshot } from "../wire";
import { words } from "../words";
import { CopyCurl } from "./CopyCurl";
import { Meter } from "./Meter";
import { useStore } from "./context";

/** Turns that run, each with how far it is and the way to end it; and those that failed of late. */
export function RequestsView() {
  const snapshot = useStore().snapshot.value;
  if (snapshot === null) return null;
  const said = words.value;
  return (
    <>
      <section class="section" aria-labelledby="live">
        <div class="section-head">
          <h2 id="live">{said.liveRequests(count(snapshot.live))}</h2>
          <CopyCurl method="GET" path="v1/admin/snapshot" />
        </div>
        {snapshot.requests.length === 0 ? <p class="card table-empty">{said.noRequests}</p> : <Live snapshot={snapshot} />}
      </section>
      <section class="section" aria-labelledby="faults">
        <h2 id="faults">{said.faults}</h2>
        {snapshot.faults.length === 0 ? <p class="card table-empty">{said.noFaults}</p> : <Faults snapshot={snapshot} />}
      </section>
    </>
  );
}

function Live({ snapshot }: { snapshot: Snapshot }) {
  const said = words.value;
  return (
    <ul class="requests">
      {snapshot.requests.map((request) => (
        <li key={request.id} class="card request">
          <div class="request-head">
            <span class={`tag tag-${request.state}`}>{said.states[request.state] ?? request.state}</span>
            <code class="id">{request.id}</code>
            <span class="quiet">{duration(Math.max(0, (snapshot.at - request.at) / 1000))}</span>
            <Cancel request={request} />
          </div>
          <p class="figure-note">
            {request.tenant} · {request.kind}
            {request.conversation !== null && (
              <>
                {" · "}
                <a class="id" href={sessionHref(request.tenant, request.conversation)}>
                  {request.conversation}
                </a>
              </>
            )}
          </p>
          <div class="progress">
            <span>{said.prefill(count(request.prefilled_tokens), count(request.prompt_tokens), count(request.cached_tokens))}</span>
            <Meter share={request.prefilled_tokens / Math.max(1, request.prompt_tokens)} kind="cold" />
            <span>{said.decoded(count(request.output_tokens), request.max_tokens === null ? "∞" : count(request.max_tokens))}</span>
            <Meter share={request.output_tokens / Math.max(1, request.max_tokens ?? request.output_tokens * 2)} />
          </div>
        </li>
      ))}
    </ul>
  );
}

function Cancel({ request }: { request: LiveRequest }) {
  const store = useStore();
  const said = words.value;
  if (!store.login.mayChange.value) return null;
  const path = `v1/admin/requests/${encodeURIComponent(request.id)}/cancel`;
  return (
    <button
      type="button"
      class="button button-danger request-cancel"
      aria-label={said.cancelOne(request.id)}
      onClick={() => store.act(said.cancelled(request.id), () => store.api.json("POST", path))}
    >
      {said.cancel}
    </button>
  );
}

function Faults({ snapshot }: { snapshot: Snapshot }) {
  const { columns, faults, errors, errorUnknown } = words.value;
  return (
    <div class="card table-box" tabIndex={0} role="group" aria-label={faults}>
      <table class="table">
        <thead>
          <tr>
            {[columns.time, columns.error, columns.response, columns.tenant].map((label) => (
              <th key={label} scope="col">
                {label}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {snapshot.faults.map((fault) => (
            <tr key={fault.response_id}>
              <td>{clock(fault.at, snapshot.at)}</td>
              <td class="fault">
                <code class="bad">{fault.code}</code>
                <span class="figure-note">{errors[fault.code] ?? errorUnknown}</span>
              </td>
              <td>
                <code class="id">{fault.response_id}</code>
              </td>
              <td>{fault.tenant}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
