// Peer of `make bench`: npm oidc-provider with its in-memory store, one process. Settings come from the environment:
// PORT, CLIENTS (JSON), ARGON2 (a hash of the one password; empty: passwords are compared as they are).
//
// It gets what makes it fastest without leaving anything out that idhub does: consent is remembered (loadExistingGrant),
// the sign-in page is one small form, no claims are looked up.
import { createHash, generateKeyPairSync, timingSafeEqual } from "node:crypto";
import Provider, { interactionPolicy } from "oidc-provider";

const port = Number(process.env.PORT);
const clients = JSON.parse(process.env.CLIENTS);
const password = process.env.PASSWORD;
const argon2 = process.env.ARGON2 ? await import("@node-rs/argon2") : null;
const jwk = (type, options, alg) => ({
  ...generateKeyPairSync(type, options).privateKey.export({ format: "jwk" }), alg, use: "sig", kid: alg,
});

const formats = { opaque: ["opaque"], es256: ["jwt", "ES256"], rs256: ["jwt", "RS256"] };
const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients,
  jwks: { keys: [jwk("ec", { namedCurve: "P-256" }, "ES256"), jwk("rsa", { modulusLength: 2048 }, "RS256")] },
  cookies: { keys: ["bench"] },
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    introspection: { enabled: true, allowedPolicy: () => true },
    resourceIndicators: {
      enabled: true,
      defaultResource: (ctx, client) => (formats[client?.clientId] ? `urn:bench:${client.clientId}` : []),
      getResourceServerInfo: (ctx, resource) => {
        const [accessTokenFormat, alg] = formats[resource.split(":").pop()];
        return { scope: "jobs:run", audience: resource, accessTokenFormat, ...(alg && { jwt: { sign: { alg } } }) };
      },
    },
  },
  scopes: ["openid", "profile", "email", "jobs:run"],
  claims: { openid: ["sub"], profile: ["name"], email: ["email"] },
  ttl: { AccessToken: 300, ClientCredentials: 300, Grant: 3600, IdToken: 300, Interaction: 600, Session: 43200 },
  findAccount: (ctx, id) => ({
    accountId: id,
    claims: () => ({ sub: id, name: "Employee", email: `${id}@qiyue.example` }),
  }),
  interactions: { policy: interactionPolicy.base(), url: (ctx, interaction) => `/interaction/${interaction.uid}` },
  async loadExistingGrant(ctx) {
    const { client, session } = ctx.oidc;
    const known = session.grantIdFor(client.clientId);
    if (known) return provider.Grant.find(known);
    const grant = new provider.Grant({ clientId: client.clientId, accountId: session.accountId });
    grant.addOIDCScope("openid profile email");
    await grant.save();
    return grant;
  },
  renderError: (ctx, out, error) => {
    if (process.env.DEBUG_PEER) console.error(error);
    ctx.type = "json";
    ctx.body = out;
  },
});

const form = (uid) => `<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Sign in</title></head><body>
<form autocomplete="off" action="/interaction/${uid}" method="post"><input type="hidden" name="prompt" value="login">
<input required type="text" name="username"><input required type="password" name="password">
<button type="submit">Sign in</button></form></body></html>`;

async function body(request) {
  const parts = [];
  for await (const part of request) parts.push(part);
  return new URLSearchParams(Buffer.concat(parts).toString());
}

const digest = (text) => createHash("sha256").update(text).digest();

provider.use(async (ctx, next) => {
  const found = /^\/interaction\/([A-Za-z0-9_-]+)$/.exec(ctx.path);
  if (!found) return next();
  ctx.set("cache-control", "no-store");
  if (ctx.method === "GET") {
    const { uid, prompt } = await provider.interactionDetails(ctx.req, ctx.res);
    if (prompt.name !== "login") ctx.throw(500, `unexpected prompt ${prompt.name}`);
    ctx.type = "html";
    ctx.body = form(uid);
    return;
  }
  await provider.interactionDetails(ctx.req, ctx.res);
  const sent = await body(ctx.req);
  const given = sent.get("password") ?? "";
  const right = argon2
    ? await argon2.verify(process.env.ARGON2, given)
    : timingSafeEqual(digest(given), digest(password));
  if (!right) ctx.throw(403, "wrong password");
  const result = { login: { accountId: sent.get("username") } };
  ctx.redirect(await provider.interactionResult(ctx.req, ctx.res, result, { mergeWithLastSubmission: false }));
  ctx.status = 303;
});

const server = provider.listen(port, "127.0.0.1");
server.keepAliveTimeout = 60_000;
