// Drains jobs with pg-boss in its quickest way: four loops that fetch 500 and complete them in one call.
// usage: node pg-boss.mjs DATABASE_URL JOBS; prints the jobs per second from the first fetch to the last completion.
import { createRequire } from "node:module";
import process from "node:process";

const require = createRequire(process.cwd() + "/");
const PgBoss = require("pg-boss");

const LANES = 4;
const BATCH = 500;
const INSERTED_AT_ONCE = 5000;
const QUEUE = "noop";
const [connectionString, wanted] = process.argv.slice(2);
const jobs = Number(wanted);

const boss = new PgBoss({ connectionString, max: LANES + 2, supervise: false, schedule: false });
boss.on("error", (error) => { throw error; });
await boss.start();
await boss.createQueue(QUEUE);
for (let first = 0; first < jobs; first += INSERTED_AT_ONCE) {
  const count = Math.min(INSERTED_AT_ONCE, jobs - first);
  await boss.insert(Array.from({ length: count }, (_, at) => ({ name: QUEUE, data: { id: first + at } })));
}

// The planner knows nothing of a table that was just filled.
await boss.getDb().executeSql("analyze");

let done = 0;
const lane = async () => {
  for (;;) {
    const batch = await boss.fetch(QUEUE, { batchSize: BATCH });
    if (batch.length === 0) return;
    await boss.complete(QUEUE, batch.map((job) => job.id));
    done += batch.length;
  }
};
const begun = performance.now();
await Promise.all(Array.from({ length: LANES }, lane));
const rate = jobs / ((performance.now() - begun) / 1000);
if (done !== jobs) throw new Error(`${done} of ${jobs} jobs were completed`);
console.log(rate);
await boss.stop({ graceful: false });
