// Drains jobs with graphile-worker as its documentation tunes it for throughput: a local queue, completions in batches.
// usage: node graphile-worker.mjs DATABASE_URL JOBS; prints the jobs per second from the first job to the last row deleted.
import { createRequire } from "node:module";
import process from "node:process";

const require = createRequire(process.cwd() + "/");
const { Logger, makeWorkerUtils, run } = require("graphile-worker");
const { Pool } = require("pg");

const ADDED_AT_ONCE = 1000;
const [connectionString, wanted] = process.argv.slice(2);
const jobs = Number(wanted);
const pgPool = new Pool({ connectionString, max: 12 });
pgPool.on("error", (error) => { throw error; });
pgPool.on("connect", (client) => client.on("error", (error) => { throw error; }));
const logger = new Logger(() => () => {});

const utils = await makeWorkerUtils({ pgPool, logger });
await utils.migrate();
for (let first = 0; first < jobs; first += ADDED_AT_ONCE) {
  const count = Math.min(ADDED_AT_ONCE, jobs - first);
  await utils.addJobs(Array.from({ length: count }, (_, at) => ({ identifier: "noop", payload: { id: first + at } })));
}

// Half as slow without: the planner knows nothing of a table that was just filled.
await pgPool.query("vacuum analyze graphile_worker._private_jobs");

let begun;
let done = 0;
let allDone;
const finished = new Promise((resolve) => { allDone = resolve; });
const noop = async () => {
  begun ??= performance.now();
  done += 1;
  if (done === jobs) allDone();
};
const runner = await run({
  pgPool,
  logger,
  noHandleSignals: true,
  taskList: { noop },
  preset: {
    worker: {
      concurrentJobs: 24,
      localQueue: { size: 500 },
      completeJobBatchDelay: 0,
      failJobBatchDelay: 0,
    },
  },
});
await finished;
const isLeft = "select exists (select from graphile_worker._private_jobs) as is_left";
while ((await pgPool.query(isLeft)).rows[0].is_left) {
  // The last completions are on their way.
}
console.log(jobs / ((performance.now() - begun) / 1000));
await runner.stop();
await utils.release();
await pgPool.end();
