// OpenAI's package for Node: openai_node.cjs BASE_URL, with NODE_PATH at a folder that has `openai`.

const OpenAI = require("openai");
const { readFileSync } = require("node:fs");
const { dirname, join } = require("node:path");

const { version } = JSON.parse(readFileSync(join(dirname(require.resolve("openai")), "package.json")));

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "What is seventeen plus four?" }];
const ask = { model: "policy", messages, max_tokens: 200, seed: 9 };
const weather = {
  type: "object",
  properties: { city: { enum: ["Rome", "Oslo"] } },
  required: ["city"],
  additionalProperties: false,
};
const tool = { type: "function", function: { name: "get_weather", parameters: weather } };

const checks = {
  async chat() {
    const answer = await client.chat.completions.create(ask);
    return typeof answer.choices[0].message.content === "string" && answer.usage.total_tokens > 0;
  },
  async stream() {
    const whole = await client.chat.completions.create(ask);
    let text = "";
    for await (const chunk of await client.chat.completions.create({ ...ask, stream: true })) {
      for (const choice of chunk.choices) text += choice.delta.content ?? "";
    }
    return text === whole.choices[0].message.content;
  },
  async tools() {
    const forced = { ...ask, tools: [tool], tool_choice: "required", parallel_tool_calls: false };
    const call = (await client.chat.completions.create(forced)).choices[0].message.tool_calls[0];
    let args = "";
    for await (const chunk of await client.chat.completions.create({ ...forced, stream: true })) {
      for (const choice of chunk.choices) {
        for (const news of choice.delta.tool_calls ?? []) args += news.function.arguments ?? "";
      }
    }
    return args === call.function.arguments && ["Rome", "Oslo"].includes(JSON.parse(args).city);
  },
  async "JSON schema"() {
    const response_format = { type: "json_schema", json_schema: { name: "w", strict: true, schema: weather } };
    const answer = await client.chat.completions.create({ ...ask, response_format });
    return ["Rome", "Oslo"].includes(JSON.parse(answer.choices[0].message.content).city);
  },
  async logprobs() {
    const answer = await client.chat.completions.create({ ...ask, logprobs: true, top_logprobs: 3 });
    const tokens = answer.choices[0].logprobs.content;
    return tokens.length > 0 && tokens.every((token) => token.top_logprobs.length === 3 && token.logprob <= 0);
  },
  async responses() {
    const answer = await client.responses.create({ model: "policy", input: "Hi", max_output_tokens: 24 });
    return typeof answer.output_text === "string";
  },
};

(async () => {
  console.log(`version: ${version}`);
  let failed = false;
  for (const [name, check] of Object.entries(checks)) {
    const outcome = await check().then(
      (ok) => (ok ? "ok" : "not what was asked for"),
      (error) => String(error).split("\n")[0].slice(0, 200),
    );
    failed ||= outcome !== "ok";
    console.log(`${name}: ${outcome}`);
  }
  process.exit(failed ? 1 : 0);
})();
