/** The admin API's objects, as server/wire_admin.py has them; a test holds the two together. */

export interface Window {
  seconds: number;
  turns: number;
  failed: number;
  prompt_tokens: number;
  device_tokens: number;
  host_tokens: number;
  disk_tokens: number;
  computed_tokens: number;
  attainable_tokens: number;
  generated_tokens: number;
  hit_tokens: number;
  saved_seconds: number;
}

export interface Point {
  at: number;
  turns: number;
  prompt_tokens: number;
  hit_tokens: number;
  attainable_tokens: number;
  computed_tokens: number;
}

export interface History {
  object: string;
  at: number;
  seconds: number;
  step: number;
  points: Point[];
}

export interface Quantiles {
  count: number;
  p50: number | null;
  p95: number | null;
  p99: number | null;
}

export interface Blocks {
  total: number;
  block_size: number;
  free: number;
  cached: number;
  leased: number;
  pinned: number;
  active: number;
  utilisation: number;
  waste: number;
}

export interface Tier {
  name: "device" | "host" | "disk";
  bytes: number;
  capacity_bytes: number;
  hit_tokens: number;
  load_seconds: number | null;
}

export interface EngineFigures {
  running: number;
  waiting: number;
  blocks: Blocks;
  tiers: Tier[];
  queried_tokens: number;
  hit_tokens: number;
  lost_tokens: number;
  evicted_blocks: Record<string, number>;
  lease_events: Record<string, number>;
  preemptions: number;
  swaps: number;
  recomputed_tokens: number;
  failed_steps: number;
  between_tokens: Quantiles;
}

export interface ReplicaRow {
  id: string;
  state: "ok" | "draining" | "restarting" | "stopped";
  restarts: number;
  /** Its id on the machine that it runs on; null: the server's own. */
  process: number | null;
  /** Begun there and not ended, and the tokens that they have still to compute; null where there is only one engine. */
  answers: number | null;
  queued_tokens: number | null;
  engine: EngineFigures | null;
}

export interface Replicas {
  object: string;
  data: ReplicaRow[];
}

export interface LiveRequest {
  id: string;
  tenant: string;
  conversation: string | null;
  kind: string;
  state: string;
  at: number;
  prompt_tokens: number;
  prefilled_tokens: number;
  cached_tokens: number;
  output_tokens: number;
  max_tokens: number | null;
}

export interface Fault {
  at: number;
  response_id: string;
  tenant: string;
  code: string;
}

export interface Push {
  at: number;
  tenant: string;
  victim: string;
  by_tenant: string | null;
  by: string | null;
  eviction_class: string;
  seconds_ago: number;
  lease_revoked: boolean;
}

export interface Lag {
  p50: number;
  most: number;
}

export interface Snapshot {
  object: string;
  at: number;
  started_at: number;
  version: string;
  model: string;
  status: string;
  engine_state: "ok" | "busy" | "restarting" | "stopped";
  restarts: number;
  windows: Window[];
  engine: EngineFigures | null;
  first_token_warm: Quantiles;
  first_token_cold: Quantiles;
  misses: Record<string, number>;
  refused: Record<string, number>;
  resumed: number;
  resumes_lost: number;
  sockets: number;
  queue_age: number;
  live: number;
  requests: LiveRequest[];
  faults: Fault[];
  pushes: Push[];
  lag: Lag;
}

export interface LeaseTold {
  strength: string;
  tokens: number;
  seconds_left: number;
  reason: string;
}

export interface SessionRow {
  tenant: string;
  id: string;
  turns: number;
  prompt_tokens: number;
  hit_tokens: number;
  attainable_tokens: number;
  at: number;
  tokens: number | null;
  device_tokens: number | null;
  leases: LeaseTold[];
  /** Where its next turn goes. */
  replica: string | null;
}

export interface TenantRow {
  tenant: string;
  turns: number;
  prompt_tokens: number;
  hit_tokens: number;
  attainable_tokens: number;
  at: number;
}

export interface PrefixRow {
  label: string;
  turns: number;
  prompt_tokens: number;
  hit_tokens: number;
  attainable_tokens: number;
  at: number;
  tokens: number;
  device_tokens: number;
  sessions: number;
}

export interface Tables {
  object: string;
  sessions: SessionRow[];
  tenants: TenantRow[];
  prefixes: PrefixRow[];
}

export interface SessionName {
  tenant: string;
  id: string;
}

export interface Block {
  object: string;
  id: number;
  code: string;
  hash: string | null;
  parent: number | null;
  depth: number;
  children: number;
  tokens: number;
  refs: number;
  pins: number;
  hits: number;
  heads: number;
  soft_leases: number;
  hard_leases: number;
  unused_seconds: number;
  sessions: SessionName[];
}

export interface LeaseRow {
  tenant: string;
  id: string;
  tokens: number;
  device_tokens: number;
  leases: LeaseTold[];
}

export interface Leases {
  object: string;
  budget: number;
  leased_blocks: number;
  softly_leased_blocks: number;
  hard: number;
  soft: number;
  data: LeaseRow[];
}

export interface BreakTold {
  response_id: string;
  token_index: number;
  message_index: number | null;
  role: string | null;
}

export interface TimelineTurn {
  id: string;
  kind: string;
  status: string;
  at: number;
  completed_at: number | null;
  error: string | null;
  output_tokens: number | null;
  queue_ms: number | null;
  prefill_ms: number | null;
  ttft_ms: number | null;
  total_ms: number | null;
  prompt_tokens: number | null;
  device_tokens: number | null;
  host_tokens: number | null;
  disk_tokens: number | null;
  computed_tokens: number | null;
  attainable_tokens: number | null;
  miss_reason: string | null;
  diverged_at: number | null;
  evicted_by: string | null;
  broken: BreakTold | null;
}

export interface Timeline {
  object: string;
  tenant: string;
  id: string;
  created_at: number;
  turns: TimelineTurn[];
}

export interface Setting {
  section: string;
  name: string;
  value: string;
  source: string;
  help: string;
}

export interface Settings {
  object: string;
  data: Setting[];
}

export interface TenantLimits {
  requests_per_minute: number | null;
  tokens_per_minute: number | null;
  max_conversations: number | null;
  weight: number | null;
}

export interface Tenant {
  object: string;
  id: string;
  paused_at: number | null;
  conversations: number;
  keys: number;
  running: number;
  weight: number;
  own: TenantLimits;
  requests_per_minute: number | null;
  tokens_per_minute: number | null;
  max_conversations: number | null;
  requests_left: number | null;
  tokens_left: number | null;
}

export interface LimitedKey {
  object: string;
  id: string;
  requests_per_minute: number | null;
  tokens_per_minute: number | null;
  max_conversations: number | null;
  requests_left: number | null;
  tokens_left: number | null;
}

export interface Tenants {
  object: string;
  data: Tenant[];
  keys: LimitedKey[];
  tenants_in_all: number;
  keys_in_all: number;
}
