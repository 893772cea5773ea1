BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0003');
CREATE TABLE attempts (
	delivery_id TEXT NOT NULL, 
	number INTEGER NOT NULL, 
	outcome TEXT NOT NULL, 
	reason TEXT NOT NULL, 
	receipt TEXT, 
	retry_after DOUBLE, 
	started_at DOUBLE NOT NULL, 
	ended_at DOUBLE NOT NULL, 
	worker TEXT NOT NULL, 
	CONSTRAINT pk_attempts PRIMARY KEY (delivery_id, number)
);
INSERT INTO "attempts" VALUES('dlv_5f68fa541287525dbb3a6754e30f204e',1,'accepted','','{"id": "r-1", "keys": ["a"], "note": "answered 200"}',NULL,1700000006.0,1700000006.0,'archive@host_1.0a1b2c3d');
INSERT INTO "attempts" VALUES('dlv_8224b9f0530a2caa0d8311b316c9b4a8',1,'unavailable','503',NULL,24.0,1700000006.0,1700000006.0,'archive@host_1.0a1b2c3d');
INSERT INTO "attempts" VALUES('dlv_8d6d5d002a259bc0a16555f6aaf7aa3a',1,'unavailable','503',NULL,24.0,1700000006.0,1700000006.0,'archive@host_1.0a1b2c3d');
INSERT INTO "attempts" VALUES('dlv_eb8d5716c1905b028911464e578c5267',1,'unavailable','503',NULL,24.0,1700000006.0,1700000006.0,'archive@host_1.0a1b2c3d');
INSERT INTO "attempts" VALUES('dlv_0d3fe64aeeda71d57cff203fc623777c',1,'lapsed','the claim ran out while sending: it may have arrived',NULL,NULL,1700000005.0,1700000025.0,'lapsed@host_1.11111111');
INSERT INTO "attempts" VALUES('dlv_92faf498e22ad36b5e0a8e013a1f3ca3',1,'refused','503',NULL,NULL,1700000027.0,1700000027.0,'dead@host_1.22222222');
INSERT INTO "attempts" VALUES('dlv_2ea42d139a68cbfb97a65bdfc45e5ba6',1,'unavailable','503',NULL,NULL,1700000027.0,1700000027.0,'waiting@host_1.33333333');
CREATE TABLE deliveries (
	id TEXT NOT NULL, 
	event_id TEXT NOT NULL, 
	sink TEXT NOT NULL, 
	lane TEXT NOT NULL, 
	route TEXT NOT NULL, 
	source TEXT NOT NULL, 
	run_id TEXT NOT NULL, 
	"after" TEXT DEFAULT '[]' NOT NULL, 
	state TEXT NOT NULL, 
	attempts INTEGER DEFAULT '0' NOT NULL, 
	spent INTEGER DEFAULT '0' NOT NULL, 
	due_at DOUBLE NOT NULL, 
	claim TEXT DEFAULT '' NOT NULL, 
	claim_until DOUBLE, 
	reason TEXT DEFAULT '' NOT NULL, 
	created_at DOUBLE NOT NULL, 
	updated_at DOUBLE NOT NULL, target TEXT DEFAULT '' NOT NULL, 
	CONSTRAINT pk_deliveries PRIMARY KEY (id)
);
INSERT INTO "deliveries" VALUES('dlv_eb8d5716c1905b028911464e578c5267','evt_3183237ade2407663b95f2589151451d','archive','archive','everything','skyvern','tsk_news','[]','waiting',1,1,1700000030.0,'',NULL,'503',1700000000.0,1700000006.0,'');
INSERT INTO "deliveries" VALUES('dlv_8224b9f0530a2caa0d8311b316c9b4a8','evt_fe533dd10056e407c2c614d0a6d212bc','archive','archive','everything','skyvern','tsk_news','[]','waiting',1,1,1700000030.0,'',NULL,'503',1700000000.0,1700000006.0,'');
INSERT INTO "deliveries" VALUES('dlv_8d6d5d002a259bc0a16555f6aaf7aa3a','evt_d8a72d6c1ef6d373981407cc8b4a369e','archive','archive','everything','skyvern','wr_interim','[]','waiting',1,1,1700000030.0,'',NULL,'503',1700000000.0,1700000006.0,'');
INSERT INTO "deliveries" VALUES('dlv_5f68fa541287525dbb3a6754e30f204e','evt_101622606ad403b9338254f13f1a4b5c','archive','archive','everything','skyvern','','[]','delivered',1,0,1700000000.0,'',NULL,'',1700000000.0,1700000006.0,'');
INSERT INTO "deliveries" VALUES('dlv_1b2dc52592cf2c1c0966531ab244f4b6','evt_3c51453621b0d295a5dfad4960c1477f','fast','fast','everything','skyvern','tsk_1','[]','sending',1,0,1700000001.0,'fast@host_1.44444444/12',1700000055.0,'',1700000001.0,1700000040.0,'');
INSERT INTO "deliveries" VALUES('dlv_3555e311584402f60b1ff1a99e6fd492','evt_fd9962cdc996cc8c53b6d8d03c2fbd0e','fast','fast','everything','skyvern','tsk_4','[]','sending',1,0,1700000001.0,'fast@host_1.44444444/12',1700000055.0,'',1700000001.0,1700000040.0,'');
INSERT INTO "deliveries" VALUES('dlv_59c4624b2053f6875cc6286655a4560b','evt_5dc6457887fcd7f23e5f389def367537','fast','fast','everything','skyvern','tsk_5','[]','sending',1,0,1700000001.0,'fast@host_1.44444444/12+',1700000055.0,'',1700000001.0,1700000040.0,'');
INSERT INTO "deliveries" VALUES('dlv_8a86acae0d5de4ac1472fc325e8e9b8b','evt_634020c010c44df5e9cfd32691f7dc7b','fast','fast','everything','skyvern','tsk_2','[]','sending',1,0,1700000001.0,'fast@host_1.44444444/12+',1700000055.0,'',1700000001.0,1700000040.0,'');
INSERT INTO "deliveries" VALUES('dlv_8e59d30d33bddc43d49b575674abdf1f','evt_bbace5bf8cc894e3630101cb85ef82d4','fast','fast','everything','skyvern','tsk_3','[]','queued',0,0,1700000001.0,'',NULL,'',1700000001.0,1700000001.0,'');
INSERT INTO "deliveries" VALUES('dlv_d6f03b0b3fd24611bfbc5a57e93acc89','evt_1f93cf34144d86f3fbcb42c8fdbf4dd0','fast','fast','everything','skyvern','tsk_0','[]','queued',0,0,1700000001.0,'',NULL,'',1700000001.0,1700000001.0,'');
INSERT INTO "deliveries" VALUES('dlv_0d3fe64aeeda71d57cff203fc623777c','evt_8cdf860478b9c37af9cd85e5ee775eae','lapsed','lapsed','everything','skyvern','tsk_lapsed','[]','queued',1,1,1700000025.0,'',NULL,'the claim ran out while sending: it may have arrived',1700000002.0,1700000025.0,'');
INSERT INTO "deliveries" VALUES('dlv_2ea42d139a68cbfb97a65bdfc45e5ba6','evt_f62912e594ff4bf7f69964e03faf5092','waiting','waiting','everything','skyvern','tsk_waiting','[]','waiting',1,1,1700001000.0,'',NULL,'503',1700000002.0,1700000027.0,'');
INSERT INTO "deliveries" VALUES('dlv_580e344c5a6a0b087b542e8742b15735','evt_b164a0625d0156bb8676e0563f4f9223','after','after','everything','skyvern','tsk_held','["slow"]','held',0,0,1700000002.0,'',NULL,'',1700000002.0,1700000002.0,'');
INSERT INTO "deliveries" VALUES('dlv_865bbe9b8a81c885525a285868ebc88a','evt_3068d7718e34c934e18a68c1e2b9de6f','cancelled','cancelled','everything','skyvern','tsk_cancelled','[]','cancelled',0,0,1700000002.0,'',NULL,'cancelled by an operator',1700000002.0,1700000028.0,'');
INSERT INTO "deliveries" VALUES('dlv_92faf498e22ad36b5e0a8e013a1f3ca3','evt_18676ac364f61caed2a3e459e5bbf8fe','dead','dead','everything','skyvern','tsk_dead','[]','dead',1,1,0.0,'',NULL,'503',1700000002.0,1700000027.0,'');
INSERT INTO "deliveries" VALUES('dlv_a56856672cd13d667366f28bf1e06c4d','evt_b164a0625d0156bb8676e0563f4f9223','slow','slow','everything','skyvern','tsk_held','[]','sending',1,0,1700000002.0,'slow@host/with.slash.55555555/7',1700000055.0,'',1700000002.0,1700000040.0,'');
INSERT INTO "deliveries" VALUES('dlv_fc2d2fa2b6279e91a6d3c7796f84da4f','evt_f8307cc7fc54277e9ef1c920ae618634','callback','callback:https://caller.example','caller','skyvern','tsk_callback','[]','queued',0,0,1700000002.0,'',NULL,'',1700000002.0,1700000002.0,'');
CREATE TABLE events (
	seq INTEGER NOT NULL, 
	id TEXT NOT NULL, 
	source TEXT NOT NULL, 
	run_id TEXT NOT NULL, 
	via TEXT NOT NULL, 
	run_type TEXT NOT NULL, 
	status TEXT NOT NULL, 
	outcome TEXT NOT NULL, 
	attempt INTEGER NOT NULL, 
	retry_pending BOOLEAN NOT NULL, 
	final BOOLEAN NOT NULL, 
	modified_at DOUBLE, 
	fingerprint TEXT NOT NULL, 
	output_null BOOLEAN NOT NULL, 
	disposition TEXT NOT NULL, 
	repeat_of TEXT, 
	unrouted BOOLEAN NOT NULL, 
	problem TEXT NOT NULL, 
	submission_id TEXT NOT NULL, 
	received_at DOUBLE NOT NULL, 
	recorded_at DOUBLE NOT NULL, 
	body BLOB NOT NULL, 
	CONSTRAINT pk_events PRIMARY KEY (seq)
);
INSERT INTO "events" VALUES(1,'evt_3183237ade2407663b95f2589151451d','skyvern','tsk_news','webhook','','completed','completed',1,0,1,NULL,'3577b85ec2e74d0ed72825291131d448',0,'news',NULL,0,'','',1700000000.0,1700000000.0,X'7B2272756E5F6964223A202274736B5F6E657773222C2022737461747573223A2022636F6D706C65746564222C20226F7574707574223A207B226E223A20317D7D');
INSERT INTO "events" VALUES(2,'evt_fe533dd10056e407c2c614d0a6d212bc','skyvern','tsk_news','webhook','','completed','completed',1,0,1,NULL,'0a812b8cd4d72e377cec8edcc6012bcf',0,'repeat',NULL,0,'','',1700000000.0,1700000000.0,X'7B2272756E5F6964223A202274736B5F6E657773222C2022737461747573223A2022636F6D706C65746564222C20226F7574707574223A207B226E223A20312C2022616761696E223A20226E657773227D7D');
INSERT INTO "events" VALUES(3,'evt_d8a72d6c1ef6d373981407cc8b4a369e','skyvern','wr_interim','webhook','','running','running',1,0,0,NULL,'3577b85ec2e74d0ed72825291131d448',0,'interim',NULL,0,'','',1700000000.0,1700000000.0,X'7B2272756E5F6964223A202277725F696E746572696D222C2022737461747573223A202272756E6E696E67222C20226F7574707574223A207B226E223A20317D7D');
INSERT INTO "events" VALUES(4,'evt_67b21c9b467df65666d2484097fdd27d','skyvern','tsk_news','webhook','','completed','completed',1,0,1,NULL,'1df3533636695eebd4601c81f8aa744f',0,'superseded',NULL,0,'','',1700000000.0,1700000000.0,X'7B2272756E5F6964223A202274736B5F6E657773222C2022737461747573223A2022636F6D706C65746564222C20226F7574707574223A20226F6C646572227D');
INSERT INTO "events" VALUES(5,'evt_101622606ad403b9338254f13f1a4b5c','skyvern','','webhook','','','',1,0,0,NULL,'',1,'unreadable',NULL,0,'it is no JSON: Expecting value at character 0','',1700000000.0,1700000000.0,X'00FF206E6F74204A534F4E');
INSERT INTO "events" VALUES(6,'evt_1f93cf34144d86f3fbcb42c8fdbf4dd0','skyvern','tsk_0','webhook','','completed','completed',1,0,1,NULL,'3577b85ec2e74d0ed72825291131d448',0,'news',NULL,0,'','',1700000000.0,1700000001.0,X'7B2272756E5F6964223A202274736B5F30222C2022737461747573223A2022636F6D706C65746564222C20226F7574707574223A207B226E223A20317D7D');
INSERT INTO "events" VALUES(7,'evt_3c51453621b0d295a5dfad4960c1477f','skyvern','tsk_1','webhook','','completed','completed',1,0,1,NULL,'3577b85ec2e74d0ed72825291131d448',0,'news',NULL,0,'','',1700000000.0,1700000001.0,X'7B2272756E5F6964223A202274736B5F31222C2022737461747573223A2022636F6D706C65746564222C20226F7574707574223A207B226E223A20317D7D');
INSERT INTO "events" VALUES(8,'evt_634020c010c44df5e9cfd32691f7dc7b','skyvern','tsk_2','webhook','','completed','completed',1,0,1,NULL,'3577b85ec2e74d0ed72825291131d448',0,'news',NULL,0,'','',1700000000.0,1700000001.0,X'7B2272756E5F6964223A202274736B5F32222C2022737461747573223A2022636F6D706C65746564222C20226F7574707574223A207B226E223A20317D7D');
INSERT INTO "events" VALUES(9,'evt_bbace5bf8cc894e3630101cb85ef82d4','skyvern','tsk_3','webhook','','completed','completed',1,0,1,NULL,'3577b85ec2e74d0ed72825291131d448',0,'news',NULL,0,'','',1700000000.0,1700000001.0,X'7B2272756E5F6964223A202274736B5F33222C2022737461747573223A2022636F6D706C65746564222C20226F7574707574223A207B226E223A20317D7D');
INSERT INTO "events" VALUES(10,'evt_fd9962cdc996cc8c53b6d8d03c2fbd0e','skyvern','tsk_4','webhook','','completed','completed',1,0,1,NULL,'3577b85ec2e74d0ed72825291131d448',0,'news',NULL,0,'','',1700000000.0,1700000001.0,X'7B2272756E5F6964223A202274736B5F34222C2022737461747573223A2022636F6D706C65746564222C20226F7574707574223A207B226E223A20317D7D');
INSERT INTO "events" VALUES(11,'evt_5dc6457887fcd7f23e5f389def367537','skyvern','tsk_5','webhook','','completed','completed',1,0,1,NULL,'3577b85ec2e74d0ed72825291131d448',0,'news',NULL,0,'','',1700000000.0,1700000001.0,X'7B2272756E5F6964223A202274736B5F35222C2022737461747573223A2022636F6D706C65746564222C20226F7574707574223A207B226E223A20317D7D');
INSERT INTO "events" VALUES(12,'evt_8cdf860478b9c37af9cd85e5ee775eae','skyvern','tsk_lapsed','webhook','','completed','completed',1,0,1,NULL,'3577b85ec2e74d0ed72825291131d448',0,'news',NULL,0,'','',1700000000.0,1700000002.0,X'7B2272756E5F6964223A202274736B5F6C6170736564222C2022737461747573223A2022636F6D706C65746564222C20226F7574707574223A207B226E223A20317D7D');
INSERT INTO "events" VALUES(13,'evt_18676ac364f61caed2a3e459e5bbf8fe','skyvern','tsk_dead','webhook','','completed','completed',1,0,1,NULL,'3577b85ec2e74d0ed72825291131d448',0,'news',NULL,0,'','',1700000000.0,1700000002.0,X'7B2272756E5F6964223A202274736B5F64656164222C2022737461747573223A2022636F6D706C65746564222C20226F7574707574223A207B226E223A20317D7D');
INSERT INTO "events" VALUES(14,'evt_f62912e594ff4bf7f69964e03faf5092','skyvern','tsk_waiting','webhook','','completed','completed',1,0,1,NULL,'3577b85ec2e74d0ed72825291131d448',0,'news',NULL,0,'','',1700000000.0,1700000002.0,X'7B2272756E5F6964223A202274736B5F77616974696E67222C2022737461747573223A2022636F6D706C65746564222C20226F7574707574223A207B226E223A20317D7D');
INSERT INTO "events" VALUES(15,'evt_3068d7718e34c934e18a68c1e2b9de6f','skyvern','tsk_cancelled','webhook','','completed','completed',1,0,1,NULL,'3577b85ec2e74d0ed72825291131d448',0,'news',NULL,0,'','',1700000000.0,1700000002.0,X'7B2272756E5F6964223A202274736B5F63616E63656C6C6564222C2022737461747573223A2022636F6D706C65746564222C20226F7574707574223A207B226E223A20317D7D');
INSERT INTO "events" VALUES(16,'evt_b164a0625d0156bb8676e0563f4f9223','skyvern','tsk_held','webhook','','completed','completed',1,0,1,NULL,'3577b85ec2e74d0ed72825291131d448',0,'news',NULL,0,'','',1700000000.0,1700000002.0,X'7B2272756E5F6964223A202274736B5F68656C64222C2022737461747573223A2022636F6D706C65746564222C20226F7574707574223A207B226E223A20317D7D');
INSERT INTO "events" VALUES(17,'evt_f8307cc7fc54277e9ef1c920ae618634','skyvern','tsk_callback','webhook','','completed','completed',1,0,1,NULL,'3577b85ec2e74d0ed72825291131d448',0,'news',NULL,0,'','',1700000000.0,1700000002.0,X'7B2272756E5F6964223A202274736B5F63616C6C6261636B222C2022737461747573223A2022636F6D706C65746564222C20226F7574707574223A207B226E223A20317D7D');
CREATE TABLE keys (
	id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	hash TEXT NOT NULL, 
	hint TEXT NOT NULL, 
	scopes TEXT NOT NULL, 
	source TEXT NOT NULL, 
	rate TEXT, 
	created_at DOUBLE NOT NULL, 
	used_at DOUBLE, 
	revoked_at DOUBLE, 
	CONSTRAINT pk_keys PRIMARY KEY (id)
);
INSERT INTO "keys" VALUES('all','all app','43dfbe568c0fc50d884a47d9bbb64e33e72cca0014e15fe15b1de18667b0a199','rhk_all_pC4Z','again operate read submit','skyvern','10/s',1700000000.0,NULL,NULL);
INSERT INTO "keys" VALUES('submits','submits app','52969fdb0ef4e0ee06dacd27a6e498cf62562e5892a82890aca8751dbf3dabe9','rhk_submits_','submit','skyvern',NULL,1700000000.0,NULL,NULL);
INSERT INTO "keys" VALUES('reads','reads app','74aaba501852f5d425759df41987613f6f815dba95b6e8c76e653df1eee1ac0b','rhk_reads_6U','read','skyvern',NULL,1700000000.0,NULL,NULL);
INSERT INTO "keys" VALUES('operates','operates app','6fb73e7bf3e487306f94c172590e6522c469a265b3237aca9ea887c9c239bef2','rhk_operates','operate','skyvern',NULL,1700000000.0,NULL,NULL);
INSERT INTO "keys" VALUES('resubmits','resubmits app','a6bda445d4f703b4925aa5f1b24bcb206cc1a18ad5315c1a375f9cc93eeba752','rhk_resubmit','again submit','skyvern',NULL,1700000000.0,NULL,NULL);
CREATE TABLE lanes (
	lane TEXT NOT NULL, 
	sink TEXT NOT NULL, 
	paused BOOLEAN DEFAULT (false) NOT NULL, 
	breaker TEXT DEFAULT 'closed' NOT NULL, 
	failures INTEGER DEFAULT '0' NOT NULL, 
	until DOUBLE DEFAULT '0' NOT NULL, 
	reason TEXT DEFAULT '' NOT NULL, 
	updated_at DOUBLE NOT NULL, 
	CONSTRAINT pk_lanes PRIMARY KEY (lane)
);
INSERT INTO "lanes" VALUES('dead','dead',1,'closed',0,0.0,'',1700000041.0);
INSERT INTO "lanes" VALUES('waiting','waiting',0,'open',6,1700000060.0,'503',1700000041.0);
CREATE TABLE operations (
	id TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	selection TEXT NOT NULL, 
	sink TEXT NOT NULL, 
	force BOOLEAN NOT NULL, 
	rate DOUBLE NOT NULL, 
	state TEXT NOT NULL, 
	total INTEGER NOT NULL, 
	done INTEGER DEFAULT '0' NOT NULL, 
	cursor TEXT DEFAULT '' NOT NULL, 
	created_at DOUBLE NOT NULL, 
	updated_at DOUBLE NOT NULL, 
	CONSTRAINT pk_operations PRIMARY KEY (id)
);
INSERT INTO "operations" VALUES('op_replay','replay','{"sink": "dead", "until": 1700000050.0}','',0,0.0,'running',1,0,'',1700000050.0,1700000050.0);
INSERT INTO "operations" VALUES('op_backfill','backfill','{"status": ["nothing"], "until": 1700000050.0}','later',0,0.0,'done',0,0,'',1700000050.0,1700000050.0);
CREATE TABLE runs (
	source TEXT NOT NULL, 
	run_id TEXT NOT NULL, 
	run_type TEXT DEFAULT '' NOT NULL, 
	status TEXT DEFAULT '' NOT NULL, 
	outcome TEXT DEFAULT '' NOT NULL, 
	attempt INTEGER DEFAULT '1' NOT NULL, 
	retry_pending BOOLEAN DEFAULT (false) NOT NULL, 
	final BOOLEAN DEFAULT (false) NOT NULL, 
	title TEXT, 
	workflow_id TEXT, 
	failure_reason TEXT, 
	created_at DOUBLE, 
	started_at DOUBLE, 
	finished_at DOUBLE, 
	modified_at DOUBLE, 
	event_id TEXT DEFAULT '' NOT NULL, 
	events INTEGER DEFAULT '0' NOT NULL, 
	submission_id TEXT DEFAULT '' NOT NULL, 
	labels TEXT DEFAULT '{}' NOT NULL, 
	first_seen_at DOUBLE NOT NULL, 
	updated_at DOUBLE NOT NULL, 
	CONSTRAINT pk_runs PRIMARY KEY (source, run_id)
);
INSERT INTO "runs" VALUES('skyvern','tsk_news','','completed','completed',1,0,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'evt_3183237ade2407663b95f2589151451d',3,'','{}',1700000000.0,1700000000.0);
INSERT INTO "runs" VALUES('skyvern','wr_interim','','running','running',1,0,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'evt_d8a72d6c1ef6d373981407cc8b4a369e',1,'','{}',1700000000.0,1700000000.0);
INSERT INTO "runs" VALUES('skyvern','tsk_0','','completed','completed',1,0,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'evt_1f93cf34144d86f3fbcb42c8fdbf4dd0',1,'','{}',1700000001.0,1700000001.0);
INSERT INTO "runs" VALUES('skyvern','tsk_1','','completed','completed',1,0,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'evt_3c51453621b0d295a5dfad4960c1477f',1,'','{}',1700000001.0,1700000001.0);
INSERT INTO "runs" VALUES('skyvern','tsk_2','','completed','completed',1,0,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'evt_634020c010c44df5e9cfd32691f7dc7b',1,'','{}',1700000001.0,1700000001.0);
INSERT INTO "runs" VALUES('skyvern','tsk_3','','completed','completed',1,0,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'evt_bbace5bf8cc894e3630101cb85ef82d4',1,'','{}',1700000001.0,1700000001.0);
INSERT INTO "runs" VALUES('skyvern','tsk_4','','completed','completed',1,0,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'evt_fd9962cdc996cc8c53b6d8d03c2fbd0e',1,'','{}',1700000001.0,1700000001.0);
INSERT INTO "runs" VALUES('skyvern','tsk_5','','completed','completed',1,0,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'evt_5dc6457887fcd7f23e5f389def367537',1,'','{}',1700000001.0,1700000001.0);
INSERT INTO "runs" VALUES('skyvern','tsk_callback','','completed','completed',1,0,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'evt_f8307cc7fc54277e9ef1c920ae618634',1,'','{}',1700000002.0,1700000002.0);
INSERT INTO "runs" VALUES('skyvern','tsk_cancelled','','completed','completed',1,0,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'evt_3068d7718e34c934e18a68c1e2b9de6f',1,'','{}',1700000002.0,1700000002.0);
INSERT INTO "runs" VALUES('skyvern','tsk_dead','','completed','completed',1,0,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'evt_18676ac364f61caed2a3e459e5bbf8fe',1,'','{}',1700000002.0,1700000002.0);
INSERT INTO "runs" VALUES('skyvern','tsk_held','','completed','completed',1,0,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'evt_b164a0625d0156bb8676e0563f4f9223',1,'','{}',1700000002.0,1700000002.0);
INSERT INTO "runs" VALUES('skyvern','tsk_lapsed','','completed','completed',1,0,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'evt_8cdf860478b9c37af9cd85e5ee775eae',1,'','{}',1700000002.0,1700000002.0);
INSERT INTO "runs" VALUES('skyvern','tsk_waiting','','completed','completed',1,0,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'evt_f62912e594ff4bf7f69964e03faf5092',1,'','{}',1700000002.0,1700000002.0);
CREATE TABLE submissions (
	id TEXT NOT NULL, 
	source TEXT NOT NULL, 
	key_id TEXT NOT NULL, 
	call TEXT NOT NULL, 
	state TEXT NOT NULL, 
	run_id TEXT DEFAULT '' NOT NULL, 
	run_type TEXT DEFAULT '' NOT NULL, 
	title TEXT, 
	labels TEXT DEFAULT '{}' NOT NULL, 
	callback_url TEXT DEFAULT '' NOT NULL, 
	idempotency_key TEXT, 
	request_hash TEXT NOT NULL, 
	answer_status INTEGER, 
	answer BLOB, 
	due_at DOUBLE, 
	polls INTEGER DEFAULT '0' NOT NULL, 
	reason TEXT DEFAULT '' NOT NULL, 
	created_at DOUBLE NOT NULL, 
	answered_at DOUBLE, 
	updated_at DOUBLE NOT NULL, 
	CONSTRAINT pk_submissions PRIMARY KEY (id)
);
INSERT INTO "submissions" VALUES('sub_pending','skyvern','all','tasks','pending','','','Invoices','{"team": "ops"}','https://caller.example/hook','key-0','0000000000000000000000000000000000000000000000000000000000000000',NULL,NULL,1700000060.0,0,'',1700000000.0,NULL,1700000001.0);
INSERT INTO "submissions" VALUES('sub_accepted','skyvern','all','tasks','accepted','tsk_callback','task_v2','Invoices','{"team": "ops"}','https://caller.example/hook','key-1','0000000000000000000000000000000000000000000000000000000000000001',200,X'7B2272756E5F6964223A202274736B5F63616C6C6261636B227D',1700003600.0,1,'',1700000000.0,1700000001.0,1700000001.0);
INSERT INTO "submissions" VALUES('sub_rejected','skyvern','all','tasks','rejected','','','Invoices','{"team": "ops"}','https://caller.example/hook','key-2','0000000000000000000000000000000000000000000000000000000000000002',422,X'7B2264657461696C223A205B5D7D',NULL,2,'',1700000000.0,1700000001.0,1700000001.0);
INSERT INTO "submissions" VALUES('sub_unknown','skyvern','all','tasks','unknown','','','Invoices','{"team": "ops"}','https://caller.example/hook','key-3','0000000000000000000000000000000000000000000000000000000000000003',NULL,NULL,1700000060.0,3,'no answer',1700000000.0,NULL,1700000001.0);
INSERT INTO "submissions" VALUES('sub_lost','skyvern','all','tasks','lost','','','Invoices','{"team": "ops"}','https://caller.example/hook','key-4','0000000000000000000000000000000000000000000000000000000000000004',NULL,NULL,NULL,4,'no answer',1700000000.0,NULL,1700000001.0);
CREATE INDEX ix_deliveries_event_id ON deliveries (event_id);
CREATE INDEX ix_deliveries_held ON deliveries (event_id) WHERE state = 'held';
CREATE INDEX ix_deliveries_queued ON deliveries (sink, due_at) WHERE state = 'queued';
CREATE INDEX ix_deliveries_sending ON deliveries (claim_until) WHERE state = 'sending';
CREATE INDEX ix_deliveries_source_run_id ON deliveries (source, run_id);
CREATE INDEX ix_deliveries_state_updated_at ON deliveries (state, updated_at);
CREATE INDEX ix_deliveries_waiting ON deliveries (due_at) WHERE state = 'waiting';
CREATE INDEX ix_events_recorded_at ON events (recorded_at);
CREATE INDEX ix_events_source_run_id ON events (source, run_id);
CREATE UNIQUE INDEX uq_events_id ON events (id);
CREATE INDEX ix_operations_state ON operations (state);
CREATE INDEX ix_runs_updated_at ON runs (updated_at);
CREATE UNIQUE INDEX uq_keys_hash ON keys (hash);
CREATE INDEX ix_submissions_due ON submissions (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX ix_submissions_key_id_request_hash_created_at ON submissions (key_id, request_hash, created_at);
CREATE INDEX ix_submissions_source_run_id ON submissions (source, run_id);
CREATE UNIQUE INDEX uq_submissions_key_id_idempotency_key ON submissions (key_id, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX ix_deliveries_queued_lane ON deliveries (sink, lane, due_at) WHERE state = 'queued';
COMMIT;
