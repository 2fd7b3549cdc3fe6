#!/usr/bin/env node
// LiteLLM keeps its books through prisma-client-py, whose query engine is a Rust binary that no package registry carries.
// Prisma publishes the same engine as WebAssembly inside the npm package @prisma/client; this puts the HTTP protocol of
// the binary around it. GraphQL comes in, Prisma's JSON protocol goes to the engine.
"use strict";
if (process.argv.includes("--version")) {
  console.log("query-engine 393aa359c9ad4a4bb28630fb5613f9c281cde053");
  process.exit(0);
}
const fs = require("node:fs");
const http = require("node:http");
const { createRequire } = require("node:module");
const at = createRequire(process.env.ADVERSARY_NODE_PACKAGE);
const runtime = at("@prisma/client/runtime/query_engine_bg.postgresql.js");
const { PrismaPg } = at("@prisma/adapter-pg");
const { bindAdapter } = createRequire(at.resolve("@prisma/adapter-pg"))("@prisma/driver-adapter-utils");
const { Pool } = at("pg");
const { parse } = at("graphql");
const wasm = fs.readFileSync(at.resolve("@prisma/client/runtime/query_engine_bg.postgresql.wasm"));
const ACTIONS = ["findUnique", "findFirst", "findMany", "createOne", "createMany", "updateOne", "updateMany",
  "upsertOne", "deleteOne", "deleteMany", "aggregate", "groupBy"];

function value(node) {
  switch (node.kind) {
    case "ObjectValue": return Object.fromEntries(node.fields.map((f) => [f.name.value, value(f.value)]));
    case "ListValue": return node.values.map(value);
    case "IntValue": return Number.isSafeInteger(Number(node.value)) ? Number(node.value) : { $type: "BigInt", value: node.value };
    case "FloatValue": return Number(node.value);
    case "NullValue": return null;
    default: return node.value;
  }
}
const args = (nodes) => Object.fromEntries((nodes || []).map((a) => [a.name.value, value(a.value)]));
const selection = (set) => Object.fromEntries(((set && set.selections) || []).map((f) => [f.name.value,
  f.selectionSet ? { arguments: args(f.arguments), selection: selection(f.selectionSet) } : true]));

function translated(text) {
  const field = parse(text).definitions[0].selectionSet.selections[0];
  const name = field.name.value;
  const query = { arguments: args(field.arguments), selection: selection(field.selectionSet) };
  if (name === "queryRaw" || name === "executeRaw") query.arguments.query = query.arguments.query.replace(/ARRAY_AGG\(viewname\)/g, "ARRAY_AGG(viewname::text)"); // name[] is no type of the adapter
  if (name === "queryRaw" || name === "executeRaw") return { action: name, query: { ...query, selection: {} } };
  const orThrow = name.endsWith("OrThrow") ? "OrThrow" : "";
  const action = ACTIONS.find((a) => name.startsWith(a));
  const modelName = name.slice(action.length, name.length - orThrow.length);
  query.arguments = tagged(query.arguments, JSON_FIELDS[modelName] || new Set());
  return { modelName, action: action + orThrow, query };
}
// In GraphQL a Json value is a string; in the JSON protocol it has to say that it is one.
function tagged(v, fields, isJson = false) {
  if (isJson && typeof v === "string") return { $type: "Json", value: v };
  if (Array.isArray(v)) return v.map((each) => tagged(each, fields, isJson));
  if (v === null || typeof v !== "object" || "$type" in v) return v;
  return Object.fromEntries(Object.entries(v).map(([k, e]) => [k, tagged(e, fields, fields.has(k) || (isJson && ["set", "equals"].includes(k)))]));
}
function untagged(v) {
  if (Array.isArray(v)) return v.map(untagged);
  if (v === null || typeof v !== "object") return v;
  if (typeof v.$type === "string" && "value" in v) return v.value;
  return Object.fromEntries(Object.entries(v).map(([k, e]) => [k, untagged(e)]));
}
function raw(v) {
  if (!v || !v.columns) return v;
  const json = v.types.map((type) => type === "json");
  return { ...v, rows: v.rows.map((row) => row.map((each, i) => json[i] && typeof each === "string" ? JSON.parse(each) : each)) };
}
const result = (said) => said.data ? { data: { result: raw(untagged(Object.values(said.data)[0])) } } : said;

const SCHEMA = fs.readFileSync(process.env.PRISMA_DML_PATH, "utf8");
const JSON_FIELDS = Object.fromEntries([...SCHEMA.matchAll(/^model\s+(\w+)\s*\{([^]*?)^\}/gm)].map((m) =>
  [m[1], new Set([...m[2].matchAll(/^\s*(\w+)\s+Json\b/gm)].map((f) => f[1]))]));

async function main() {
  const module_ = await WebAssembly.instantiate(wasm, { "./query_engine_bg.js": runtime });
  runtime.__wbg_set_wasm(module_.instance.exports);
  const datamodel = SCHEMA.replace(/generator\s+\w+\s*\{[^}]*\}/, 'generator client {\n  provider = "prisma-client-js"\n  previewFeatures = ["driverAdapters"]\n}');
  const overridden = JSON.parse(process.env.OVERWRITE_DATASOURCES || "[]")[0];
  const url = new URL((overridden && overridden.url) || process.env.DATABASE_URL);
  for (const name of [...url.searchParams.keys()]) url.searchParams.delete(name);
  const pool = new Pool({ connectionString: url.toString(), max: 10 });
  const engine = new runtime.QueryEngine({ datamodel, env: process.env, logQueries: false, ignoreEnvVarErrors: true,
    datasourceOverrides: {}, logLevel: "error", configDir: process.cwd(), engineProtocol: "json" },
    () => {}, bindAdapter(new PrismaPg(pool)));
  const trace = JSON.stringify({ traceparent: "" });
  await engine.connect(trace);

  async function answer(request, body) {
    const path = new URL(request.url, "http://x").pathname;
    const tx = request.headers["x-transaction-id"];
    if (path === "/status") return { status: "ok" };
    if (path === "/metrics") return { counters: [], gauges: [], histograms: [] };
    if (path === "/transaction/start") {
      return JSON.parse(await engine.startTransaction(JSON.stringify({ max_wait: 2000, timeout: 5000, ...JSON.parse(body) }), trace));
    }
    const ends = path.match(/^\/transaction\/(.+)\/(commit|rollback)$/);
    if (ends) return JSON.parse(await engine[`${ends[2]}Transaction`](ends[1], trace) || "{}");
    const asked = JSON.parse(body);
    if (asked.batch) {
      const said = JSON.parse(await engine.query(JSON.stringify({
        batch: asked.batch.map((each) => translated(each.query)), transaction: asked.transaction ? {} : undefined }), trace, tx));
      return said.batchResult ? { batchResult: said.batchResult.map(result) } : said;
    }
    return result(JSON.parse(await engine.query(JSON.stringify(translated(asked.query)), trace, tx)));
  }
  http.createServer((request, response) => {
    const chunks = [];
    request.on("data", (c) => chunks.push(c));
    request.on("end", async () => {
      const body = Buffer.concat(chunks).toString();
      let said, status = 200;
      try { said = await answer(request, body); } catch (e) {
        status = 500;
        said = { errors: [{ error: String(e && e.stack || e), user_facing_error: { message: String(e), is_panic: false } }] };
      }
      const text = JSON.stringify(said);
      response.writeHead(status, { "content-type": "application/json", "content-length": Buffer.byteLength(text) });
      response.end(text);
    });
  }).listen(Number(process.argv[process.argv.indexOf("-p") + 1]), "localhost");
}
process.on("SIGINT", () => process.exit(0));
main().catch((e) => { console.error(e); process.exit(1); });
