// A relying party by passport-wsfed-saml2: /secret signs in, /acs takes tokens, /logout signs out, /clean ends its session.
import { createServer } from "node:http";
import { readFileSync } from "node:fs";
import { randomUUID } from "node:crypto";
import wsfed from "passport-wsfed-saml2";

const [port, folder] = process.argv.slice(2);
const base = `http://127.0.0.1:${port}`;
const metadata = readFileSync(`${folder}/hub.xml`, "utf8");
const address = /PassiveRequestorEndpoint>.*?<wsa:Address>([^<]+)</s.exec(metadata)[1];
const realm = "urn:passport";
const strategy = new wsfed.Strategy(
  {
    protocol: "wsfed",
    path: "/acs",
    realm,
    homeRealm: "",
    identityProviderUrl: address,
    wreply: `${base}/acs`,
    cert: /X509Certificate>([^<]+)</.exec(metadata)[1],
    recipientUrl: `${base}/acs`,
  },
  (profile, done) => done(null, profile),
);
const sessions = new Map();

const body = async (request) => {
  let text = "";
  for await (const part of request) text += part;
  return Object.fromEntries(new URLSearchParams(text));
};
const go = (response, to) => response.writeHead(303, { location: to }).end();
const say = (response, text) => response.writeHead(200, { "content-type": "text/html" }).end(text);
const authenticate = (request, options) =>
  new Promise((resolve, reject) => {
    const one = Object.create(strategy);
    one.redirect = (url) => resolve({ url });
    one.success = (profile) => resolve({ profile });
    one.fail = (reason) => reject(new Error(`refused: ${reason?.message ?? reason}`));
    one.error = reject;
    one.authenticate(request, options);
  });

const routes = {
  "/secret": async (request, response, session) => {
    if (!session) return go(response, (await authenticate(request, { wctx: "/secret?a=1&b=\"<2>\"" })).url);
    const told = Object.entries(session.profile).map(([name, value]) => `${name}=${[value].flat().join(",")}\n`);
    say(response, `wctx=${session.wctx}\n${told.join("")}`);
  },
  "/acs": async (request, response) => {
    request.body = await body(request);
    const { profile } = await authenticate(request, {});
    const key = randomUUID();
    sessions.set(key, { profile, wctx: request.body.wctx });
    response.setHeader("set-cookie", `passport=${key}; Path=/; HttpOnly`);
    go(response, "/secret");
  },
  "/logout": async (request, response) =>
    go(response, `${address}?${new URLSearchParams({ wa: "wsignout1.0", wtrealm: realm, wreply: `${base}/acs/out` })}`),
  "/acs/out": async (request, response) => say(response, "out"),
  "/clean": async (request, response, session, key) => {
    if (new URL(request.url, base).searchParams.get("wa") === "wsignoutcleanup1.0") sessions.delete(key);
    say(response, "clean");
  },
};

createServer(async (request, response) => {
  const key = /(?:^|; )passport=([^;]+)/.exec(request.headers.cookie ?? "")?.[1];
  const route = routes[request.url.split("?")[0]];
  try {
    if (!route) return response.writeHead(404).end();
    await route(request, response, sessions.get(key), key);
  } catch (error) {
    console.error(error);
    response.writeHead(500, { "content-type": "text/plain" }).end(String(error));
  }
}).listen(Number(port), "127.0.0.1");
